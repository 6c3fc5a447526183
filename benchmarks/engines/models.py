"""The two models of the benchmark, and adapters with random weights for them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from examples.miniwob.paths import MODEL
from services.engine.loading import Checkpoint, load

_TARGETS: Final = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    make: Callable[[], Checkpoint]
    rank: int
    answers: tuple[int, int]  # shortest and longest answer
    gap_s: float  # between arrivals


def _embedded() -> Checkpoint:
    return _endless(load(str(MODEL)))


def _large() -> Checkpoint:
    """110 M parameters with random weights behind the embedded world's tokenizer."""
    small = load(str(MODEL))
    config = Qwen3VLConfig.from_pretrained(MODEL)
    text = config.text_config.to_dict() | {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 7,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
    }
    text["rope_parameters"] = text["rope_parameters"] | {"mrope_section": [12, 10, 10]}
    vision = config.vision_config.to_dict() | {"out_hidden_size": 1024}
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    torch.manual_seed(0)
    large = Qwen3VLConfig(text_config=text, vision_config=vision, **{name: getattr(config, name) for name in ids})
    model = Qwen3VLForConditionalGeneration(large).eval().requires_grad_(False)
    return _endless(small._replace(model=model))


def _endless(checkpoint: Checkpoint) -> Checkpoint:
    """No token ends an answer, so that every way says as much."""
    checkpoint.tokenizer.eos_token = None
    checkpoint.tokenizer.pad_token = None
    checkpoint.model.generation_config.eos_token_id = None
    checkpoint.model.generation_config.pad_token_id = 0
    return checkpoint


MODELS: Final = {
    "embedded": Subject(_embedded, 8, (16, 64), 0.002),
    "large": Subject(_large, 16, (8, 32), 0.02),
}


def write_adapters(
    checkpoint: Checkpoint, rank: int, count: int, folder: Path, *, std: float = 0.02
) -> dict[str, Path]:
    """Random adapters on all seven projections, as PEFT saves them."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS, task_type="CAUSAL_LM")
    peft: PeftModel = get_peft_model(copy.deepcopy(checkpoint.model), config)
    paths = {f"adapter-{number}": folder / f"adapter-{number}" for number in range(count)}
    for path in paths.values():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=std)
        peft.save_pretrained(str(path))
    return paths


def dense_bound(model: Any, ranks: int) -> float:
    """1 + R Σ(in + out) ÷ Σ(in · out) over the linear layers: what R rank rows must cost where all are multiplied."""
    layers = model.model.language_model.layers
    linear = [m for m in layers.modules() if isinstance(m, torch.nn.Linear)]
    extra = sum(layer.in_features + layer.out_features for layer in linear)
    return float(1 + ranks * extra / sum(layer.in_features * layer.out_features for layer in linear))
