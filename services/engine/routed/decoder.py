"""The arithmetic of Qwen3-VL's language model: one pass over a prompt's chunk, or over one token of every row."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from services.engine.routed.kv import KvArena
from services.engine.routed.projections import Projections
from services.engine.routed.shape import Shape
from services.engine.routed.weights import Weights

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [T, heads, d], keys [T, kv_heads, d], values [T, kv_heads, d]) to [T, heads · d]."""


class Visual(NamedTuple):
    """Vision features that are added to the states after the first layers, at `at` [n] of a chunk."""

    at: torch.Tensor
    layers: Sequence[torch.Tensor]  # each [n, hidden]


class Logits(NamedTuple):
    """Logits of n rows, and the largest of each with its token: [n, vocabulary] and float64 [2, n]."""

    rows: torch.Tensor
    likeliest: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> "Logits":
        """With the likeliest found."""
        return cls(rows, torch.stack([part.double() for part in rows.max(-1)]))


class Decoder:
    """Computes states; keeps none."""

    def __init__(self, weights: Weights, shape: Shape) -> None:
        self._weights = weights
        self._shape = shape
        self._group = shape.heads // shape.kv_heads
        self._rotated = shape.heads + shape.kv_heads

    def states(
        self,
        h: torch.Tensor,
        turns: torch.Tensor,
        project: Projections,
        attend: Attend,
        *,
        visual: Visual | None = None,
        layers: range | None = None,
    ) -> torch.Tensor:
        """States [T, hidden] after `layers` (all), before the last norm. `h` [T, hidden] is changed."""
        for layer in range(self._shape.layers) if layers is None else layers:
            self._attention(layer, h, turns, project, attend)
            self._mlp(layer, h, project)
            if visual and layer < len(visual.layers):
                h.index_add_(0, visual.at, visual.layers[layer])
        return h

    def logits(self, h: torch.Tensor) -> Logits:
        """Logits of last states [n, hidden]."""
        hidden = (self._shape.hidden,)
        return Logits.of(self._weights.head(rms_norm(h, hidden, self._weights.norm, self._shape.eps)))

    def _attention(
        self, layer: int, h: torch.Tensor, turns: torch.Tensor, project: Projections, attend: Attend
    ) -> None:
        shape, weights = self._shape, self._weights
        x = rms_norm(h, (shape.hidden,), weights.input_norms[layer], shape.eps)
        heads = project("qkv", layer, x).view(len(x), -1, shape.head_dim)
        turned = rms_norm(heads[:, : self._rotated], (shape.head_dim,), None, shape.eps) * weights.head_norms[layer]
        turned = _turn(turned, turns)
        attended = attend(layer, turned[:, : shape.heads], turned[:, shape.heads :], heads[:, self._rotated :])
        h += project("o", layer, attended)

    def _mlp(self, layer: int, h: torch.Tensor, project: Projections) -> None:
        x = rms_norm(h, (self._shape.hidden,), self._weights.mlp_norms[layer], self._shape.eps)
        gate, up = project("gate_up", layer, x).chunk(2, 1)
        h += project("down", layer, silu(gate).mul_(up))


def _turn(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of heads [T, n, d] whose pairs lie side by side, by turns [T, 1, d/2]."""
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:2], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(2).to(heads.dtype)


def alone(shape: Shape, keys: list[torch.Tensor], values: list[torch.Tensor]) -> Attend:
    """Causal attention of one sequence from its first token; those of each layer are added to `keys` and `values`."""

    def attend(_: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys.append(k.clone())  # a view of more than the keys
        values.append(v.clone())
        return _causal(q, k.transpose(0, 1), v.transpose(0, 1), shape)

    return attend


def chunks(arena: KvArena, shape: Shape, parts: Sequence[tuple[int, range]]) -> Attend:
    """Causal attention of chunks one below the other: (row, tokens of that row); keys and values are kept there."""
    sizes = [len(tokens) for _, tokens in parts]

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = []
        for (row, tokens), *qkv in zip(parts, *(x.split_with_sizes(sizes) for x in (q, k, v)), strict=True):
            keys, values = (kept[layer][row, :, : tokens.stop] for kept in (arena.keys, arena.values))
            keys[:, tokens.start :] = qkv[1].transpose(0, 1)
            values[:, tokens.start :] = qkv[2].transpose(0, 1)
            out.append(_causal(qkv[0], keys, values, shape))
        return out[0] if len(out) == 1 else torch.cat(out)

    return attend


def batch(arena: KvArena, shape: Shape, lengths: torch.Tensor, longest: int) -> Attend:
    """Attention of one token of each of the first rows, whose tokens so far are `lengths` [B], all below `longest`."""
    device, rows = lengths.device, len(lengths)
    heads = torch.arange(rows * shape.kv_heads, device=device).view(rows, -1)
    at = (heads * arena.length + lengths[:, None]).flatten()
    hidden = torch.arange(longest, device=device) > lengths[:, None]
    mask = torch.zeros(rows, 1, 1, longest, dtype=arena.keys[0].dtype, device=device)
    mask.masked_fill_(hidden[:, None, None], float("-inf"))

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        arena.flat_keys[layer].index_copy_(0, at, k.reshape(-1, shape.head_dim))
        arena.flat_values[layer].index_copy_(0, at, v.reshape(-1, shape.head_dim))
        keys, values = arena.keys[layer][:rows, :, :longest], arena.values[layer][:rows, :, :longest]
        queries = q.view(rows, shape.kv_heads, -1, shape.head_dim)
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask).flatten(1)

    return attend


def _causal(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The last T of the keys [kv_heads, N, d] are the queries' own; heads of a group share keys without a copy."""
    tokens, total, group = len(q), keys.shape[1], shape.heads // shape.kv_heads
    queries = q.view(tokens, shape.kv_heads, group, -1).permute(1, 2, 0, 3)
    keys, values = (x[:, None].expand(-1, group, -1, -1) for x in (keys, values))
    mask = None
    if tokens != total:
        mask = torch.ones(tokens, total, dtype=torch.bool, device=q.device).tril(total - tokens)
    out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
    return out.permute(2, 0, 1, 3).flatten(1)
