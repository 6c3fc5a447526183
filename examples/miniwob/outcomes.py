"""The outcome table: which arm solves which recorded screen; `evaluate.py` makes it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Self

from rich.table import Table

from examples.miniwob.paths import OUTCOMES
from examples.miniwob.recipes import RECIPES


@dataclass(frozen=True)
class Outcomes:
    """Success of every column by episode id.

    arms: the columns that the service offers, the base first. others: columns for comparison, `worse/<adapter>` and
    LoRAs that the service does not offer. adapters: the content hash of each LoRA among arms and others.
    """

    adapters: dict[str, str]
    arms: tuple[str, ...]
    others: tuple[str, ...]
    table: dict[str, tuple[bool, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        """All that was measured."""
        return self.arms + self.others

    def success(self, episode: str, column: str) -> bool:
        """Whether the arm, or another column, solves the episode. KeyError, ValueError: not measured."""
        return self.table[episode][self.columns.index(column)]

    def rate(self, episodes: Iterable[str], column: str) -> float:
        """Share of the episodes that the column solves."""
        return mean(self.success(episode, column) for episode in episodes)

    def best(self, episodes: Sequence[str], *, adapters_only: bool = False) -> str:
        """The arm that solves most of the episodes; the first of equals."""
        arms = [arm for arm in self.arms if not adapters_only or arm in self.adapters]
        return max(arms, key=lambda arm: sum(self.success(episode, arm) for episode in episodes))

    def best_own(self, family: str) -> str:
        """The best of the adapters that were trained for the family."""
        return max(
            (arm for arm in self.adapters if own(arm) == family), key=lambda arm: self.rate(self.families[family], arm)
        )

    @property
    def families(self) -> dict[str, list[str]]:
        """Episode ids by family."""
        names = sorted({family_of(id_) for id_ in self.table})
        return {name: [id_ for id_ in self.table if family_of(id_) == name] for name in names}

    def save(self, path: Path = OUTCOMES) -> None:
        """Write the table, an episode a line."""
        rows = ",\n".join(
            f"  {json.dumps(id_)}: {json.dumps([int(s) for s in row])}" for id_, row in self.table.items()
        )
        head = json.dumps({"adapters": self.adapters, "arms": self.arms, "others": self.others})[1:-1]
        path.write_text(f'{{{head},\n "table": {{\n{rows}\n}}}}\n')

    @classmethod
    def load(cls, path: Path = OUTCOMES) -> Self:
        """Read the table."""
        data = json.loads(path.read_text())
        table = {id_: tuple(bool(success) for success in row) for id_, row in data["table"].items()}
        return cls(data["adapters"], tuple(data["arms"]), tuple(data["others"]), table)


def family_of(episode: str) -> str:
    """The family that an episode's id names."""
    return episode.partition("/")[0]


def worse(adapter: str) -> str:
    """The column of an adapter's worse version."""
    return f"worse/{adapter}"


def own(column: str) -> str | None:
    """The family that an adapter was trained for; None for what is not one of the published adapters."""
    return RECIPES[column].families[0] if column in RECIPES else None


def matrix(table: Outcomes) -> Table:
    """Success in percent, columns down, families across, in bold where an adapter is at home."""
    families = table.families
    shown = Table("arm", *families, "mean")
    for column in table.columns:
        rates = {family: table.rate(ids, column) for family, ids in families.items()}
        cells = [
            f"[bold]{100 * rate:.1f}[/]" if own(column) == family else f"{100 * rate:.1f}"
            for family, rate in rates.items()
        ]
        shown.add_row(column, *cells, f"{100 * mean(rates.values()):.1f}", end_section=column == table.arms[-1])
    return shown
