"""Intervals by empirical likelihood (Owen 1988; for weighted rewards Karampatziakis, Langford and Mineiro 2020).

The interval holds every θ under which the data, reweighted as little as possible so that a moment g(θ) has mean zero,
are still likely enough. It needs no variance, keeps to the range of what is estimated, and leans to where the data are
skewed: near a success rate of 1 and under rare large weights, symmetric intervals do not cover.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from policies.checks import Array

_STEPS = 60
_PRECISION = 1e-5


@dataclass(frozen=True, eq=False)
class Moment:
    """g_i(θ) = slope_i·(anchor_i − θ), of mean zero at the truth; row i occurs count_i times.

    Anchors lie in [low, high], and so does θ.
    A mean of values v has slope 1 and anchor v; a ratio Σwr/Σw has slope w and anchor r.
    """

    slope: Array
    anchor: Array
    count: Array
    low: float
    high: float

    @property
    def estimate(self) -> float:
        """The θ at which the observed moment is zero."""
        weight = self.slope * self.count
        return float(weight @ self.anchor / weight.sum())

    @property
    def effective(self) -> float:
        """How many equal rows the slopes are worth: (Σw)²/Σw²."""
        return float((self.slope @ self.count) ** 2 / (self.slope**2 @ self.count))


def interval(moment: Moment, level: float, effective: float) -> tuple[float, float]:
    """The θ in [low, high] that the data do not rule out at `level`; `effective` is how many rows they are worth.

    The limit is that of χ²₁, widened as Student's t is for few rows (F calibration, Owen 2001).
    """
    limit = _student(level, effective - 1) ** 2
    rows = moment.slope > 0
    slope, anchor, count = moment.slope[rows], moment.anchor[rows], moment.count[rows]
    largest = float(slope.max())

    def rejected(theta: float) -> bool:
        bounds = largest * (moment.low - theta), largest * (moment.high - theta)
        return 2 * _log_ratio(slope * (anchor - theta), count, *bounds) > limit

    inside = min(max(moment.estimate, moment.low), moment.high)
    return _edge(rejected, inside, moment.low), _edge(rejected, inside, moment.high)


def _log_ratio(g: Array, count: Array, low: float, high: float) -> float:
    """max over λ of Σ count·log(1 + λg), where 1 + λg ≥ 0 wherever g may lie, observed or not: in [low, high]."""
    if not low < 0 < high:
        return 0.0 if not g.any() else np.inf
    bottom, top = -1 / high, -1 / low
    at = 0.0
    for _ in range(_STEPS):
        inverse = g / (1 + at * g)
        gradient, curvature = float(count @ inverse), float(count @ inverse**2)
        bottom, top = (at, top) if gradient > 0 else (bottom, at)
        newton = at + gradient / curvature if curvature else at
        step = newton if bottom < newton < top else (bottom + top) / 2
        if abs(step - at) <= _PRECISION * abs(step):
            break
        at = step
    return float(count @ np.log1p(at * g))


def _edge(rejected: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last θ, on the way from one inside the interval to the end of its range, that is not rejected."""
    if not rejected(outside):
        return outside
    while abs(outside - inside) > _PRECISION * max(1.0, abs(inside)):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
    return inside


def _student(level: float, freedom: float) -> float:
    """The two-sided quantile of Student's t, by its expansion around the normal one (Abramowitz and Stegun 26.7.5)."""
    z, freedom = NormalDist().inv_cdf((1 + level) / 2), max(freedom, 1.0)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
