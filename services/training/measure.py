"""Real answers of the service's own engine under given gates: whether they are right, and what they take."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from policies.checks import Array
from services.engine.base import Engine, Gate, Sampling
from services.training.examples import Example

Gates = Mapping[str, Gate]
_Name = tuple[str, tuple[tuple[str, tuple[float, ...]], ...]]
_CLICK: Final = re.compile(r'"coordinate"\s*:\s*\[\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\]')
_TIMED: Final = 16
"""Answers that are timed together."""
_TURNS: Final = 3


def score(example: Example, text: str) -> float:
    """1 if the answer is right: its first coordinate lies in one of the boxes, or without boxes it is the target."""
    if not example.boxes:
        return float(text.strip() == example.target.strip())
    click = _CLICK.search(text)
    if click is None:
        return 0.0
    x, y = float(click[1]), float(click[2])
    return float(any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in example.boxes))


class Measuring:
    """Asks an engine, each question under the same gates once."""

    def __init__(self, engine: Engine, max_tokens: int) -> None:
        self._engine = engine
        self._sampling = Sampling(max_tokens=max_tokens)
        self._known: dict[_Name, float] = {}

    def success(
        self, examples: Sequence[Example], gates: Sequence[Gates], progress: Callable[[int], Any] = lambda _: None
    ) -> Array:
        """Scores [n] of greedy answers; `progress` is told how many are there."""
        return np.array(asyncio.run(self._scores(examples, gates, progress)))

    def seconds(self, examples: Sequence[Example], ways: Sequence[Sequence[Gates]]) -> list[float]:
        """Seconds an answer under each of the ways, of a few that run together; the least of three turns of all."""
        turns = [[self._timed(examples, gates) for gates in ways] for _ in range(_TURNS)]
        return [min(each) for each in zip(*turns, strict=True)]

    def _timed(self, examples: Sequence[Example], gates: Sequence[Gates]) -> float:
        asked = list(zip(examples, gates, strict=True))[:_TIMED]
        start = time.perf_counter()
        asyncio.run(self._all(asked))
        return (time.perf_counter() - start) / len(asked)

    async def _scores(
        self, examples: Sequence[Example], gates: Sequence[Gates], progress: Callable[[int], Any]
    ) -> list[float]:
        asked = {self._name(e, g): (e, g) for e, g in zip(examples, gates, strict=True)}
        missing = [name for name in asked if name not in self._known]
        there = len(examples) - len(missing)
        progress(there)

        async def answer(name: _Name) -> None:
            nonlocal there
            self._known[name] = score(asked[name][0], await self._answer(*asked[name]))
            there += 1
            progress(there)

        await asyncio.gather(*[answer(name) for name in missing])
        return [self._known[self._name(e, g)] for e, g in zip(examples, gates, strict=True)]

    async def _all(self, asked: Sequence[tuple[Example, Gates]]) -> None:
        await asyncio.gather(*[self._answer(example, gates) for example, gates in asked])

    async def _answer(self, example: Example, gates: Gates) -> str:
        pieces = [delta.text async for delta in self._engine.generate(example.prompt, gates, self._sampling)]
        return "".join(pieces)

    def _name(self, example: Example, gates: Gates) -> _Name:
        numbers = {arm: gate if isinstance(gate, tuple) else (gate,) for arm, gate in gates.items()}
        return example.key, tuple(sorted((arm, tuple(round(g, 3) for g in own)) for arm, own in numbers.items()))
