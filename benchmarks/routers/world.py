"""The recorded episodes as training data, and what routing others earns, from the outcome table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.labelled import row, write
from examples.miniwob.outcomes import Outcomes
from policies.checks import Array

_FIRST: Final = 1_000_060
_SEEDS: Final = 210


@dataclass(frozen=True, eq=False)
class World:
    """A file of training data of the first seeds, and the episodes of the last ones, which no training sees."""

    path: Path
    unseen: list[Episode]
    table: Outcomes = field(default_factory=Outcomes.load)

    @classmethod
    def make(cls, path: Path, seeds: Mapping[str, int] | int, unseen: int, *, labelled: bool = True) -> "World":
        """So many first `seeds` of each family, one in three held out for the training's own judgement; the last
        `unseen` of all."""
        table = Outcomes.load()
        numbered = [(episode.seed - _FIRST, episode) for episode in load_all()]
        wanted = dict.fromkeys(table.families, seeds) if isinstance(seeds, int) else seeds
        if max(wanted.values()) + unseen > _SEEDS:
            raise ValueError(f"seeds {seeds} and unseen {unseen}, expected at most {_SEEDS} of a family together")
        rows = [
            row(e, table, labelled=labelled) | {"split": "held_out" if e.seed % 3 == 0 else "train"}
            for number, e in numbered
            if number < wanted[e.family]
        ]
        write(path, rows)
        return cls(path, [e for number, e in numbered if number >= _SEEDS - unseen], table)

    @property
    def families(self) -> list[str]:
        """The family of each unseen episode."""
        return [episode.family for episode in self.unseen]

    def earned(self, chosen: Sequence[str]) -> Array:
        """Success [n] of the unseen episodes, each answered by one arm or another column."""
        return np.array([self.table.success(e.id, arm) for e, arm in zip(self.unseen, chosen, strict=True)], np.float64)

    def by_family(self, values: Array) -> dict[str, float]:
        """Means of values [n]."""
        families = np.array(self.families)
        return {family: float(values[families == family].mean()) for family in sorted(set(self.families))}

    def success(self, chosen: Sequence[str]) -> float:
        """What choices earn, a mean over families, each of the same weight."""
        return float(np.mean(list(self.by_family(self.earned(chosen)).values())))

    def best(self) -> list[str]:
        """The oracle's choices: of each family the adapter that is best on these episodes."""
        ids = {family: [e.id for e in self.unseen if e.family == family] for family in set(self.families)}
        best = {family: self.table.best(ids[family], adapters_only=True) for family in ids}
        return [best[family] for family in self.families]

    def own(self) -> list[str]:
        """The adapters that labels name."""
        return [self.table.best_own(family) for family in self.families]

    def alone(self, column: str) -> list[str]:
        """One column for everything."""
        return [column] * len(self.unseen)
