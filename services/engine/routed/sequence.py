"""One choice of a request while the engine works on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from services.engine.answer import Answer
from services.engine.base import Gate
from services.engine.routed.early import Early
from services.engine.routed.layout import Adapter
from services.engine.routed.projections import Own
from services.engine.sampler import Sampler
from services.engine.tokens import Tokens
from services.engine.vision import Screen


@dataclass(eq=False)
class Sequence:
    """Tokens 0…computed−1 have their keys and values in `row`; the rest, one token while decoding, have not yet.

    ids:   | prompt ……………………… | answer ………… |
           | computed ……………………………………… | next |
    """

    prompt: Tokens
    gates: Mapping[Adapter, Gate]
    answer: Answer
    sampler: Sampler
    positions: torch.Tensor  # int64 [3, T] of the prompt
    logprobs: int | None = None
    arrival: int = 0
    row: int | None = None
    computed: int = 0
    ids: list[int] = field(default_factory=list)
    screens: list[Screen] | None = None  # once the prompt's images are computed
    own: Own | None = None  # while the prompt is read
    early: Early | None = None  # likewise

    def __post_init__(self) -> None:
        self.ids = self.prompt.ids.tolist()
        self.delta = int(self.positions.max()) + 1 - len(self.ids)
        self.adapters = tuple(sorted(adapter.name for adapter in self.gates))
        """What the sequence shares its turn with: all sequences under the same adapters."""

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.ids) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether the next step computes one token, as the last of those that it knows."""
        return self.row is not None and self.pending == 1

    def rotary(self, start: int, stop: int) -> torch.Tensor:
        """Positions [3, stop − start]; those of the answer go on where the prompt's end, on all three axes."""
        length = self.positions.shape[1]
        answer = torch.arange(max(start, length), max(stop, length)) + self.delta
        return torch.cat([self.positions[:, start:stop], answer.expand(3, -1)], 1)
