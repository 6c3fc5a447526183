"""What other ways of choosing would have earned on the same requests, from the outcome of every arm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from examples.miniwob.outcomes import Outcomes, family_of
from examples.miniwob.story import Story

LAST = 100


class Lived(NamedTuple):
    """A request of the story as it went: the arm that served, and the one that the MLP alone would have taken."""

    phase: str
    episode: str
    arm: str
    supervised: str
    success: bool


class Line(NamedTuple):
    """Success over all requests, and over the last hundred."""

    success: float
    last_hundred: float


Course = list[bool]
"""Success of each request, in order."""


def courses(lived: Sequence[Lived], table: Outcomes, story: Story) -> dict[str, Course]:
    """Routed as it happened, the others from the table; the oracle takes the best arm per family and phase."""

    def by(choose: Callable[[Lived], str]) -> Course:
        return [table.success(one.episode, story.column(choose(one), one.phase)) for one in lived]

    def best(among: Iterable[Lived], arms: Iterable[str]) -> str:
        among = list(among)
        return max(arms, key=lambda arm: sum(table.success(x.episode, story.column(arm, x.phase)) for x in among))

    groups = {_group(one): [other for other in lived if _group(other) == _group(one)] for one in lived}
    oracle = {group: best(members, table.arms) for group, members in groups.items()}
    single = best(lived, [arm for arm in table.arms if arm in table.adapters])
    return {
        "routed": [one.success for one in lived],
        "supervised": by(lambda one: one.supervised),
        "best_single": by(lambda _: single),
        "base": by(lambda _: "base"),
        "oracle": by(lambda one: oracle[_group(one)]),
    }


def line(course: Course) -> Line:
    """Its success rates."""
    return Line(_mean(course), _mean(course[-LAST:]))


def agreement(lived: Sequence[Lived], served: Sequence[Mapping[str, str]], table: Outcomes) -> float:
    """Share of the requests whose outcome is the one in the table, for the weights whose hashes really `served`.

    Mixtures with weights that they were not measured with do not count.
    """
    asked = [(one, _column(one.arm, hashes, table)) for one, hashes in zip(lived, served, strict=True)]
    return _mean([one.success == table.success(one.episode, column) for one, column in asked if column])


def _column(arm: str, hashes: Mapping[str, str], table: Outcomes) -> str | None:
    if arm in hashes:
        return next(column for column, fingerprint in table.adapters.items() if fingerprint == hashes[arm])
    measured = all(table.adapters.get(name) == fingerprint for name, fingerprint in hashes.items())
    return arm if measured else None


def _group(lived: Lived) -> tuple[str, str]:
    return lived.phase, family_of(lived.episode)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
