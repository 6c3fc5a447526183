"""What other ways of choosing would have earned on the same requests, from the outcome of every arm."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from examples.miniwob.outcomes import Outcomes
from examples.miniwob.traffic import Served

LAST = 100


class Line(NamedTuple):
    """Success over all requests, and over the last hundred."""

    success: float
    last_hundred: float


def line(outcomes: Iterable[bool]) -> Line:
    """The success rates of outcomes in order."""
    values = [float(outcome) for outcome in outcomes]
    return Line(_mean(values), _mean(values[-LAST:]))


def compare(served: Sequence[Served], table: Outcomes) -> dict[str, Line]:
    """Routed as it happened, the others from the table; the oracle takes the best arm per family and phase."""

    def by(choose: Callable[[Served], str]) -> Line:
        return line(table.success(one.task.episode.id, choose(one)) for one in served)

    groups = {_group(one): [other for other in served if _group(other) == _group(one)] for one in served}
    best = {group: table.best([one.task.episode.id for one in members]) for group, members in groups.items()}
    best_single = table.best([one.task.episode.id for one in served], adapters_only=True)
    return {
        "routed": line(one.success for one in served),
        "supervised": by(lambda one: one.supervised),
        "best_single": by(lambda _: best_single),
        "base": by(lambda _: "base"),
        "oracle": by(lambda one: best[_group(one)]),
    }


def agreement(served: Sequence[Served], table: Outcomes) -> float:
    """Share of the requests whose live outcome is the one in the table for the arm that served."""
    return _mean([float(table.success(one.task.episode.id, one.arm) == one.success) for one in served])


def _group(served: Served) -> tuple[str, str]:
    return served.task.phase, served.task.episode.family


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
