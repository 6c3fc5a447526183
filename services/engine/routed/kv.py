"""Keys and values of all running sequences: one rectangle of rows × length, cut anew when a row outgrows it.

A row is contiguous, so that a batch attends without a gather. Twice the length leaves half the rows, in the same
memory. What is free is zero: a masked position may hold anything finite, but never a NaN of an earlier request.
"""

from collections.abc import Mapping

import torch

from services.engine.routed.shape import Shape


class KvArena:
    """Room for `tokens` tokens in at most `max_rows` rows."""

    def __init__(
        self, shape: Shape, tokens: int, max_rows: int, *, dtype: torch.dtype, device: torch.device, first: int = 256
    ) -> None:
        self.tokens = tokens
        self._max_rows = max_rows
        self._first = min(first, tokens)
        self._kv_heads, self._head_dim = shape.kv_heads, shape.head_dim
        width = shape.kv_heads * shape.head_dim
        self._storage = torch.zeros(shape.layers, 2, tokens * width, dtype=dtype, device=device)
        self._cut(self._first)

    def rows_at(self, length: int) -> int:
        """How many rows there would be for sequences of up to `length` tokens."""
        return min(self._max_rows, self.tokens // self.length_for(length))

    def length_for(self, length: int) -> int:
        """The length of a cut that holds `length` tokens: the first length, doubled until it does."""
        cut = self._first
        while cut < length:
            cut *= 2
        return cut if cut <= self.tokens else self.tokens

    def recut(self, length: int, used: Mapping[int, int]) -> None:
        """Cut for sequences of up to `length` tokens; rows in `used` (row: tokens) must still exist and keep theirs."""
        kept = {row: self._view[:, :, row, :, :tokens].clone() for row, tokens in used.items()}
        self._storage.zero_()
        self._cut(self.length_for(length))
        for row, content in kept.items():
            self._view[:, :, row, :, : content.shape[3]] = content

    def move(self, source: int, target: int, tokens: int) -> None:
        """Move a row's first `tokens` tokens to a free row."""
        self.copy(source, target, tokens)
        self.clear(source, tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Begin a free row with another row's first `tokens` tokens."""
        self._view[:, :, target, :, :tokens] = self._view[:, :, source, :, :tokens]

    def clear(self, row: int, tokens: int) -> None:
        """Free a row that holds `tokens` tokens, and maybe one that a step has begun."""
        self._view[:, :, row, :, : tokens + 1] = 0

    def _cut(self, length: int) -> None:
        self.length = length
        self.rows = min(self._max_rows, self.tokens // length)
        size = self.rows * self._kv_heads * length * self._head_dim
        shape = (self.rows, self._kv_heads, length, self._head_dim)
        self._view = self._storage[:, :, :size].view(*self._storage.shape[:2], *shape)
        self.keys = [layer[0] for layer in self._view]  # each [rows, kv_heads, length, head_dim]
        self.values = [layer[1] for layer in self._view]
        self.flat_keys = [layer.view(-1, self._head_dim) for layer in self.keys]
        self.flat_values = [layer.view(-1, self._head_dim) for layer in self.values]
