"""The recorded episodes as training data, and what routing them earns, from the outcome table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.labelled import row, write
from examples.miniwob.outcomes import Outcomes
from policies.checks import Array
from services.training.examples import Example, divide, read


@dataclass(frozen=True, eq=False)
class World:
    """Episodes with their rows in a file of training data; every `held_out`-th seed of a family is only judged on."""

    path: Path
    episodes: list[Episode]
    labelled: bool
    table: Outcomes = field(default_factory=Outcomes.load)

    @classmethod
    def make(cls, path: Path, seeds: Mapping[str, int] | int, *, labelled: bool = True) -> "World":
        """The first `seeds` of each family; one in three is held out, whatever the number."""
        found, table = [], Outcomes.load()
        for episode in load_all():
            wanted = seeds if isinstance(seeds, int) else seeds[episode.family]
            if episode.seed - 1_000_060 < wanted:
                found.append(episode)
        rows = [row(e, table, labelled=labelled) | {"split": "held_out" if e.seed % 3 == 0 else "train"} for e in found]
        write(path, rows)
        return cls(path, found, labelled, table)

    @property
    def examples(self) -> list[Example]:
        """The rows as training reads them."""
        return divide(read(self.path), 0.3, 0)

    @property
    def judged(self) -> list[int]:
        """Positions of the held-out episodes."""
        return [i for i, episode in enumerate(self.episodes) if episode.seed % 3 == 0]

    def success(self, chosen: Sequence[str]) -> float:
        """Success when each held-out episode is answered by one arm; a mean over families, each of the same weight."""
        earned = [self.table.success(self.episodes[i].id, arm) for i, arm in zip(self.judged, chosen, strict=True)]
        return self._balanced(np.array(earned, dtype=np.float64))

    def oracle(self) -> float:
        """Success of the best arm of each family on these episodes."""
        best = {family: self._best(family) for family in {self.episodes[i].family for i in self.judged}}
        return self.success([best[self.episodes[i].family] for i in self.judged])

    def alone(self, column: str) -> float:
        """Success of one column for everything."""
        return self.success([column] * len(self.judged))

    def found(self, chosen: Sequence[str]) -> dict[str, float]:
        """Share of each family's held-out episodes that get an adapter which was trained for the family."""
        right = np.array(
            [arm.removesuffix("-b") == self.episodes[i].family for i, arm in zip(self.judged, chosen, strict=True)]
        )
        families = np.array([self.episodes[i].family for i in self.judged])
        return {family: float(right[families == family].mean()) for family in sorted(set(families))}

    def _best(self, family: str) -> str:
        ids = [self.episodes[i].id for i in self.judged if self.episodes[i].family == family]
        return self.table.best(ids, adapters_only=True)

    def _balanced(self, earned: Array) -> float:
        families = np.array([self.episodes[i].family for i in self.judged])
        return float(np.mean([earned[families == family].mean() for family in sorted(set(families))]))
