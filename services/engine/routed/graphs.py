"""Decoding on a GPU: one CUDA graph for each shape that a step can have, captured when it is first needed.

A shape is the rows (a power of two), the length of the arena's cut, the pages of the window, 0 without adapters, and
whether blocks have gates of their own. The graph reads what differs from step to step from memory of its own.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Ordered
from typing import Any, NamedTuple

import torch
from torch.nn.functional import rms_norm

from services.adapters.tiers import PAGE
from services.engine.base import Gate
from services.engine.routed import kernels
from services.engine.routed.decoder import Logits
from services.engine.routed.kv import KvArena
from services.engine.routed.layout import Adapter
from services.engine.routed.pages import PageWindow
from services.engine.routed.shape import GROUPS, Rotary, Shape
from services.engine.routed.weights import Weights

_SPLIT = 1024
"""Tokens of a row beyond which several programs share its keys, as long as rows alone do not fill the device."""


class _Step(NamedTuple):
    rows: int
    length: int
    ranks: int
    tables: int  # of gates: one for all blocks, or one for each


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor
    likeliest: torch.Tensor


class GraphDecoder:
    """One token of every row, replayed."""

    def __init__(
        self, weights: Weights, shape: Shape, rotary: Rotary, arena: KvArena, window: PageWindow, rows: int
    ) -> None:
        device = weights.embeddings.device
        self._weights, self._shape, self._rotary = weights, shape, rotary
        self._arena, self._window = arena, window
        self._numbers = torch.zeros(3, rows, dtype=torch.long, device=device)
        self._staged = torch.zeros(3, rows, dtype=torch.long, pin_memory=True)
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._gates = weights.embeddings.new_zeros(shape.layers * rows * window.capacity * PAGE)
        self._tables = 1
        self._gated_for: tuple[Any, ...] = ()
        self._graphs: dict[_Step, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def fits(shape: Shape, dtype: torch.dtype) -> bool:
        """Whether the kernels can compute a model. States without their norm are too large for float16."""
        group, d = shape.heads // shape.kv_heads, shape.head_dim
        return dtype != torch.float16 and group <= 16 and d in (16, 32, 64, 128, 256)

    def __call__(self, numbers: torch.Tensor, gates: Ordered[Mapping[Adapter, Gate]]) -> Logits:
        """What follows token, length and position [3, B] of the first rows, valid until the next call."""
        count = numbers.shape[1]
        rows = min(1 << (count - 1).bit_length(), self._arena.rows)
        ranks = self._window.ranks if any(gates) else 0
        step = _Step(rows, self._arena.length, ranks, self._set_gates(rows, gates) if ranks else 1)
        self._copied.synchronize()
        self._staged[:, :count] = numbers
        self._staged[:, count:] = 0
        self._numbers.copy_(self._staged, non_blocking=True)
        self._copied.record()
        graph = self._graphs.get(step) or self._capture(step)
        graph.graph.replay()
        return Logits(graph.logits[:count], graph.likeliest[:, :count])

    def _set_gates(self, rows: int, gates: Ordered[Mapping[Adapter, Gate]]) -> int:
        """Bring gates to where the graphs read them; the number of their tables."""
        wanted = (rows, self._window.version, list(gates))
        if wanted != self._gated_for:
            tables = self._window.gates([*gates, *[{}] * (rows - len(gates))])
            self._gates[: tables.numel()].copy_(tables.flatten())
            self._gated_for, self._tables = wanted, len(tables)
        return self._tables

    def _capture(self, step: _Step) -> _Graph:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute(step)  # compiles the kernels
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits, likeliest = self._compute(step)
        self._graphs[step] = _Graph(graph, logits, likeliest)
        return self._graphs[step]

    def _compute(self, step: _Step) -> tuple[torch.Tensor, torch.Tensor]:
        weights, shape, (rows, length, ranks, tables) = self._weights, self._shape, step
        tokens, lengths, positions = (line[:rows] for line in self._numbers)
        by_layer = [*self._gates[: tables * rows * ranks].view(tables, rows, ranks)] * (shape.layers // tables)
        splits = 1
        while rows * shape.kv_heads * splits < 128 and splits * _SPLIT < length:
            splits *= 2
        turns = torch.view_as_real(self._rotary.answer(positions)).contiguous()
        h = weights.embeddings[tokens]
        expand = self._expand(0, ranks)
        normed = kernels.add(h, None, by_layer[0], expand["down_proj"], weights.input_norms[0], shape.eps)
        for layer in range(shape.layers):
            expand, gates = self._expand(layer, ranks), by_layer[layer]
            keys, values = self._arena.keys[layer], self._arena.values[layer]
            queries = kernels.finish_heads(
                self._both("qkv", layer, normed.scaled, ranks),
                normed,
                gates,
                (expand["q_proj"], expand["k_proj"], expand["v_proj"]),
                *(weights.head_norms[layer], turns, lengths, keys, values),
            )
            both = self._both("o", layer, kernels.attend(queries, keys, values, lengths, splits), ranks)
            normed = kernels.add(h, both, gates, expand["o_proj"], weights.mlp_norms[layer], shape.eps)
            both = self._both("gate_up", layer, normed.scaled, ranks)
            gated = kernels.finish_gated(both, normed, gates, (expand["gate_proj"], expand["up_proj"]))
            both = self._both("down", layer, gated, ranks)
            following = [*weights.input_norms, weights.norm][layer + 1]
            normed = kernels.add(h, both, gates, expand["down_proj"], following, shape.eps)
        logits = weights.head(rms_norm(h, (shape.hidden,), weights.norm, shape.eps))
        return logits, torch.stack([part.double() for part in logits.max(-1)])

    def _expand(self, layer: int, ranks: int) -> dict[str, torch.Tensor]:
        return {module: rows[layer, :ranks] for module, rows in self._window.expanded.items()}

    def _both(self, group: str, layer: int, x: torch.Tensor, ranks: int) -> torch.Tensor:
        """x Wᵀ and, below it, x Aᵀ."""
        rows = self._weights.out[group] + len(GROUPS[group]) * ranks
        return torch.mm(x, self._weights.folded[group][layer, :rows].t())
