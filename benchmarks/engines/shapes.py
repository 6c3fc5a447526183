"""Qwen3-VL with random weights, made on the device."""

from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from examples.miniwob.paths import MODEL
from services.engine.loading import Checkpoint


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, as its configuration names them."""

    text: dict[str, Any]
    vision: dict[str, Any]

    def with_layers(self, layers: int) -> "ModelShape":
        """The same, with fewer decoder layers and a tower of three."""
        vision = self.vision | {"depth": 3, "deepstack_visual_indexes": [0, 1]}
        return replace(self, text=self.text | {"num_hidden_layers": layers}, vision=vision)


QWEN3_VL_4B: Final = ModelShape(
    text={
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
    vision={
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    },
)

SMALL: Final = ModelShape(
    text=QWEN3_VL_4B.text
    | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 1024,
        "rope_parameters": QWEN3_VL_4B.text["rope_parameters"] | {"mrope_section": [6, 5, 5]},
    },
    vision=QWEN3_VL_4B.vision
    | {"hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128, "depth": 6},
)


def random_model(shape: ModelShape, device: str, dtype: torch.dtype) -> Checkpoint:
    """A model whose logits mean nothing, behind the embedded world's tokenizer. No token ends an answer."""
    small = Qwen3VLConfig.from_pretrained(MODEL)
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen3VLConfig(
        text_config=shape.text | {"pad_token_id": 0, "eos_token_id": None},
        vision_config=shape.vision | {"patch_size": 16, "temporal_patch_size": 2},
        tie_word_embeddings=True,
        **{name: getattr(small, name) for name in ids},
    )
    torch.manual_seed(0)
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = Qwen3VLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(default)
    model = model.to(device, dtype).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.eos_token = tokenizer.pad_token = None
    images = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, temporal_patch_size=2)
    return Checkpoint(model, tokenizer, images)
