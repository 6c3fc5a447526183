"""Reading prompts: parts of several, one below the other, in one pass."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from services.engine.routed import decoder
from services.engine.routed.decoder import Decoder, Visual
from services.engine.routed.early import Early
from services.engine.routed.kv import KvArena
from services.engine.routed.projections import Own, Plain, Prompts
from services.engine.routed.shape import Rotary, Shape
from services.engine.routed.weights import Weights
from services.engine.tokens import Tokens
from services.engine.vision import Screen


class Part(NamedTuple):
    """Tokens `ids` of a prompt, or of the answer to it, from `start` on."""

    prompt: Tokens
    screens: Sequence[Screen]
    ids: torch.Tensor
    positions: torch.Tensor  # [3, n]
    start: int = 0
    row: int = 0  # of the arena
    own: Own | None = None
    early: Early | None = None

    @property
    def known(self) -> int:
        """Leading tokens of which the states after the first blocks are known."""
        return 0 if self.early is None else max(0, min(len(self.early.states) - self.start, len(self.ids)))

    @property
    def unknown(self) -> "Part":
        """The tokens after those."""
        known = self.known
        return self._replace(ids=self.ids[known:], positions=self.positions[:, known:], start=self.start + known)

    @property
    def types(self) -> torch.Tensor:
        """Which of the tokens are images'. Those of the answer are not."""
        types = self.prompt.types[self.start : self.start + len(self.ids)]
        return torch.cat([types, types.new_zeros(len(self.ids) - len(types))])

    def seen(self) -> Iterator[tuple[Screen, slice]]:
        """Screens of which there are rows here, and which rows."""
        first = int(self.prompt.types[: self.start].sum())
        last = first + int(self.types.sum())
        for screen in self.screens:
            size = len(screen.embeddings)
            if first < size and last > 0:
                yield screen, slice(max(first, 0), min(last, size))
            first, last = first - size, last - size


class PromptReader:
    """Computes states of parts. Keys and values go to the arena."""

    def __init__(
        self, weights: Weights, shape: Shape, decoder: Decoder, rotary: Rotary, arena: KvArena, blocks: int
    ) -> None:
        """blocks: how many come first."""
        self._weights, self._shape, self._decoder, self._rotary, self._arena = weights, shape, decoder, rotary, arena
        self._plain = Plain(weights)
        self._first, self._others = range(blocks), range(blocks, shape.layers)

    def begin(self, part: Part) -> Early:
        """A whole prompt after the first blocks of the base. The arena is left alone."""
        h, visual = self._embedded([part])
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        attend = decoder.alone(self._shape, keys, values)
        turns = self._turns([part])
        h = self._decoder.states(h, turns, self._plain, attend, visual=visual, layers=self._first)
        return Early(h, keys, values)

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """States [T, hidden] after all blocks, before the last norm."""
        if not any(part.known for part in parts):
            h, visual = self._embedded(parts)
            return self._through(range(self._shape.layers), parts, h, visual)
        for part in parts:
            self._recall(part)
        rest = [part.unknown for part in parts if part.known < len(part.ids)]
        fresh = self._through(self._first, rest, *self._embedded(rest)) if rest else self._weights.embeddings[:0]
        pieces = []
        for part in parts:
            if part.early is not None:
                pieces.append(part.early.states[part.start : part.start + part.known])
            count = len(part.ids) - part.known
            pieces.append(fresh[:count])
            fresh = fresh[count:]
        return self._through(self._others, parts, torch.cat(pieces), self._embedded(parts)[1])

    def _recall(self, part: Part) -> None:
        """Bring keys and values of the first blocks to the arena."""
        if part.early is None or not part.known:
            return
        where = slice(part.start, part.start + part.known)
        for layer in self._first:
            self._arena.keys[layer][part.row, :, where] = part.early.keys[layer][where].transpose(0, 1)
            self._arena.values[layer][part.row, :, where] = part.early.values[layer][where].transpose(0, 1)

    def _through(self, layers: range, parts: Sequence[Part], h: torch.Tensor, visual: Visual | None) -> torch.Tensor:
        spans = [(part.row, range(part.start, part.start + len(part.ids))) for part in parts]
        owners, start = [], 0
        for part in parts:
            if part.own:
                owners.append((slice(start, start + len(part.ids)), part.own))
            start += len(part.ids)
        attend = decoder.chunks(self._arena, self._shape, spans)
        project = Prompts(self._plain, owners)
        return self._decoder.states(h, self._turns(parts), project, attend, visual=visual, layers=layers)

    def _turns(self, parts: Sequence[Part]) -> torch.Tensor:
        return self._rotary.prompt(torch.cat([part.positions for part in parts], 1).to(self._weights.embeddings.device))

    def _embedded(self, parts: Sequence[Part]) -> tuple[torch.Tensor, Visual | None]:
        """Embeddings [T, hidden], and the vision features among them."""
        device = self._weights.embeddings.device
        h = self._weights.embeddings[torch.cat([part.ids for part in parts]).to(device)]
        seen = [(screen, rows) for part in parts for screen, rows in part.seen()]
        if not seen:
            return h, None
        at = torch.cat([part.types for part in parts]).nonzero()[:, 0].to(device)
        h[at] = torch.cat([screen.embeddings[rows] for screen, rows in seen])
        depth = len(seen[0][0].deepstack)
        return h, Visual(at, [torch.cat([screen.deepstack[k][rows] for screen, rows in seen]) for k in range(depth)])
