"""Which linear layers there are, how they are grouped, and what rotary embeddings see."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from transformers import Qwen3VLForConditionalGeneration

from services.engine import tower

GROUPS: Final = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Modules that read the same input share one matrix product."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the language model, and of the vision tower's layers."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    eps: float
    tower: Mapping[str, tuple[int, ...]]  # shape of the weight by path

    @classmethod
    def of(cls, model: Qwen3VLForConditionalGeneration) -> "Shape":
        """Raises ValueError for a language model that this engine does not compute."""
        text = model.config.text_config
        expected = {"attention_bias": False, "hidden_act": "silu"}
        for name, value in expected.items():
            if getattr(text, name) != value:
                raise ValueError(f"text_config.{name}: {getattr(text, name)!r}, expected {value!r}")
        if (kind := text.rope_parameters["rope_type"]) not in ("default", "linear", "yarn", "llama3"):
            raise ValueError(f"text_config.rope_parameters.rope_type: {kind!r}, expected one with fixed frequencies")
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            positions=text.max_position_embeddings,
            eps=text.rms_norm_eps,
            tower=tower.layers(model.model.visual),
        )

    @property
    def inputs(self) -> dict[str, int]:
        """Input size of each group."""
        attended = self.heads * self.head_dim
        return {"qkv": self.hidden, "o": attended, "gate_up": self.hidden, "down": self.intermediate}

    @property
    def outputs(self) -> dict[str, int]:
        """Output size of each module."""
        keys = self.kv_heads * self.head_dim
        return {
            "q_proj": self.heads * self.head_dim,
            "k_proj": keys,
            "v_proj": keys,
            "o_proj": self.hidden,
            "gate_proj": self.intermediate,
            "up_proj": self.intermediate,
            "down_proj": self.hidden,
        }

    def paired(self, module: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows [out, …] of a query or key projection, with the two halves of every rotary pair side by side.

        So that a rotation is one complex product. Attention does not notice, as queries and keys are permuted alike.
        """
        if module not in ("q_proj", "k_proj"):
            return rows
        return rows.view(-1, 2, self.head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


class Rotary:
    """Complex rotations of multimodal positions."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        rotary = model.model.language_model.rotary_emb
        self._frequencies = rotary.inv_freq.float()
        self._scale = torch.tensor(float(rotary.attention_scaling), device=self._frequencies.device)
        axis = torch.zeros(len(self._frequencies), dtype=torch.long, device=self._frequencies.device)
        for number in (1, 2):  # height, width
            axis[number : rotary.mrope_section[number] * 3 : 3] = number
        self._axis = axis

    def prompt(self, positions: torch.Tensor) -> torch.Tensor:
        """Rotations [T, 1, d/2] of positions [3, T]: time, height, width."""
        return self._turn(positions.T[:, self._axis])

    def answer(self, positions: torch.Tensor) -> torch.Tensor:
        """Rotations [B, 1, d/2] of text positions [B], equal on all three axes."""
        return self._turn(positions[:, None])

    def _turn(self, positions: torch.Tensor) -> torch.Tensor:
        return torch.polar(self._scale, positions * self._frequencies)[:, None]
