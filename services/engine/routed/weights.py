"""The language model's weights, and room for the shrink of the active adapters."""

from typing import Any

import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from services.engine.products import Matrix, packs
from services.engine.routed.shape import GROUPS, Shape


class Weights:
    """Takes the decoder layers out of a Hugging Face model; what stays of it is the vision tower.

    `folded[group]` is [layers, above + modules · ranks, in]: the weights of the group's modules, and below them the
    rows of A of whatever adapters are active, so that one product yields both. Where weights are packed, A is alone
    there: above is 0.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration, shape: Shape, ranks: int) -> None:
        language = model.model.language_model
        like = language.embed_tokens.weight
        self.embeddings = like.detach()
        self.norm = language.norm.weight.detach()
        self.out = {group: sum(shape.outputs[m] for m in modules) for group, modules in GROUPS.items()}
        self.packed = packs(like.device, like.dtype)
        self.above = dict.fromkeys(GROUPS, 0) if self.packed else self.out
        self.folded = {
            group: like.new_zeros(shape.layers, self.above[group] + len(modules) * ranks, shape.inputs[group])
            for group, modules in GROUPS.items()
        }
        self.plain: dict[str, list[Matrix]] = {group: [] for group in GROUPS}
        self.input_norms: list[torch.Tensor] = []
        self.mlp_norms: list[torch.Tensor] = []
        self.head_norms: list[torch.Tensor] = []  # [heads + kv_heads, head_dim]
        for number, layer in enumerate(language.layers):
            self._take(number, layer, shape)
            layer.to("meta")  # a large model must not be held twice
        language.layers = nn.ModuleList()
        self.head = Matrix(model.lm_head.weight.detach())

    def _take(self, number: int, layer: Any, shape: Shape) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        for group, modules in GROUPS.items():
            rows = [shape.paired(m, getattr(attention if hasattr(attention, m) else mlp, m).weight) for m in modules]
            weight = torch.cat(rows)
            if not self.packed:
                weight = self.folded[group][number, : self.out[group]].copy_(weight)
            self.plain[group].append(Matrix(weight))
        self.input_norms.append(layer.input_layernorm.weight.detach())
        self.mlp_norms.append(layer.post_attention_layernorm.weight.detach())
        queries = shape.paired("q_proj", attention.q_norm.weight.detach()).expand(shape.heads, -1)
        keys = shape.paired("k_proj", attention.k_norm.weight.detach()).expand(shape.kv_heads, -1)
        self.head_norms.append(torch.cat([queries, keys]))
