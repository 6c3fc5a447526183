"""From runs to figures with intervals, and to what was promised of them."""

from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from benchmarks.regret.simulation import Lived
from benchmarks.reporting import Check
from policies.checks import Array

SHIPPED: Final = "as shipped"
"""LinUCB with the defaults, never tuned to a world."""
_OURS: Final = "linucb"
_BELOW_MLP: Final = {"a table": 1.0, "f flipped": 2.0, "g nonsense": 2.0}
_RECOVERY: Final = 300
_BEHIND_ORACLE: Final = 3.0
_HALF_WIDTH: Final = 1.5


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95% interval, in points of success."""

    mean: float
    half: float

    @classmethod
    def of(cls, samples: Array) -> "Interval":
        """By Student's t over samples [seeds], at least two."""
        spread = float(samples.std(ddof=1)) / len(samples) ** 0.5
        return cls(100 * float(samples.mean()), 100 * _student(len(samples) - 1) * spread)


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t by its expansion around the normal (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms)))


class Row(NamedTuple):
    """One learner in one world: success of what served and of its greedy choice, and what exploring cost."""

    taken: Interval
    greedy: Interval
    exploration: Interval
    late: Interval


def rows(lived: Lived) -> dict[str, Row]:
    """By learner; `late` is the greedy choice over the last quarter."""
    quarter = 3 * lived.oracle.shape[1] // 4
    return {
        name: Row(
            Interval.of(lived.taken[name].mean(axis=1)),
            Interval.of(greedy.mean(axis=1)),
            Interval.of((greedy - lived.taken[name]).mean(axis=1)),
            Interval.of(greedy[:, quarter:].mean(axis=1)),
        )
        for name, greedy in lived.greedy.items()
    }


def judge(worlds: Mapping[str, Lived], *, widths: bool) -> list[Check]:
    """Every figure that was promised; `widths` says whether there are seeds enough for that of the intervals."""
    checks = [check for world, lived in worlds.items() for check in _of_world(world, lived)]
    return checks + ([_widest(worlds)] if widths else [])


def _of_world(world: str, lived: Lived) -> Iterator[Check]:
    yield _against_best(world, lived)
    if world in _BELOW_MLP:
        yield from _against_mlp(world, lived, _BELOW_MLP[world])
    if world.startswith("c "):
        yield from _recoveries(world, lived)


def _against_best(world: str, lived: Lived) -> Check:
    """Ours minus the best other learner, seed by seed; ours untuned is no other."""
    earned = {name: greedy.mean(axis=1) for name, greedy in lived.greedy.items() if name != SHIPPED}
    best = max((name for name in earned if name != _OURS), key=lambda name: float(earned[name].mean()))
    mean, half = Interval.of(earned[_OURS] - earned[best])
    return Check(f"{world}: greedy {_OURS} − {best}", mean, f"≥ −{half:.2f} (95% interval)", mean >= -half)


def _against_mlp(world: str, lived: Lived, allowed: float) -> Iterator[Check]:
    difference = lived.greedy[_OURS] - lived.greedy["mlp"]
    parts = {"all requests": np.ones_like(lived.known), "requests of families that the MLP knows": lived.known}
    for part, where in parts.items():
        value = 100 * float(difference[where].mean())
        yield Check(f"{world}: greedy {_OURS} − mlp, {part}", value, f"≥ −{allowed:g}", value >= -allowed)


def _recoveries(world: str, lived: Lived) -> Iterator[Check]:
    """From 300 rewards after each change to the next one."""
    ends = (*lived.changes[1:], lived.oracle.shape[1])
    for what, change, end in zip(("broke", "was repaired"), lived.changes, ends, strict=True):
        behind = (lived.oracle - lived.greedy[_OURS])[:, change + _RECOVERY : end]
        value = 100 * float(behind.mean())
        name = f"{world}: oracle − greedy {_OURS}, {_RECOVERY} rewards after the arm {what}"
        yield Check(name, value, f"≤ {_BEHIND_ORACLE:g}", value <= _BEHIND_ORACLE)


def _widest(worlds: Mapping[str, Lived]) -> Check:
    halves = [each.half for lived in worlds.values() for row in rows(lived).values() for each in row]
    return Check("widest half-width of an interval", max(halves), f"≤ {_HALF_WIDTH:g}", max(halves) <= _HALF_WIDTH)
