"""How to serve a trained router: its first choice alone, its best few, or its whole mixture."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from policies.checks import Array

_NOT_WORSE: Final = 0.01


class Way(NamedTuple):
    """A way of serving: adapters a request, success [n] of the held-out examples, and the seconds an answer took."""

    name: str
    members: int
    success: Array
    seconds: float


class Recommendation(NamedTuple):
    """The way to serve, and why in words."""

    way: str
    reason: str


def recommend(ways: Sequence[Way]) -> Recommendation:
    """The way with the fewest adapters that is not worse than the best by a point or the difference's standard error.

    The fewest are the cheapest; what was measured is told, and is no judge of small differences.
    """
    best = max(ways, key=lambda way: (float(way.success.mean()), -way.members))
    fit = [way for way in ways if _gap(best, way) <= max(_NOT_WORSE, _error(best, way))]
    chosen = min(fit, key=lambda way: way.members)
    others = "; ".join(f"{way.name} {way.success.mean():.3f} at {way.seconds / chosen.seconds:.2f}×" for way in ways)
    return Recommendation(chosen.name, f"success and cost on {len(best.success)} held-out examples: {others}")


def _gap(best: Way, way: Way) -> float:
    return float((best.success - way.success).mean())


def _error(best: Way, way: Way) -> float:
    return float((best.success - way.success).std() / np.sqrt(len(best.success)))
