"""Hugging Face weights, tokenizer and image processor, from a directory or a hub name. Needs no torchvision."""

from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class Checkpoint(NamedTuple):
    """A loaded Qwen3-VL."""

    model: Qwen3VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    images: Any  # a callable image processor: PIL images -> pixel_values, image_grid_thw


def load(path: str, *, dtype: str = "float32", device: str = "cpu") -> Checkpoint:
    """Load for inference. Raises OSError when `path` is neither a checkpoint directory nor a reachable hub name."""
    try:
        model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=getattr(torch, dtype), use_safetensors=True)
    except (OSError, ValueError) as error:
        expected = "expected the directory of a Qwen3-VL checkpoint, or a hub name that can be reached"
        raise OSError(f"model.path: {path!r} cannot be loaded, {expected}: {error}") from error
    model = model.to(device).eval()
    model.requires_grad_(False)
    return Checkpoint(model, AutoTokenizer.from_pretrained(path), Qwen2VLImageProcessorPil.from_pretrained(path))
