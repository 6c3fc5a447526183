"""Weighted rewards of a policy, counted as they come: what SNIPS and its interval need, in a bounded space."""

import json
import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np

from policies import checks, likelihood
from policies.likelihood import Moment

_STEPS = 64  # classes of weight a factor of e
_GRAIN = 100  # classes of reward

Class = tuple[int, int]
Sums = tuple[int, float, float]


class Score(NamedTuple):
    """SNIPS with its interval, over units worth `effective` equal ones; no value while no unit has weight."""

    units: int
    effective: float
    mean_weight: float
    value: float | None = None
    low: float | None = None
    high: float | None = None


class Tally:
    """How many units there were of each class of weight (1.6% wide) and reward, and the sums of both in it.

    A class counts as rows at its mean weight and mean reward. `empty` units had weight 0.
    """

    def __init__(self, empty: int = 0, classes: Mapping[Class, Sums] | None = None) -> None:
        self._empty = empty
        self._classes = dict(classes or {})

    def add(self, weight: float, reward: float, count: int = 1) -> None:
        """Count a unit, or with `count` −1 take one back that was counted before."""
        checks.number("weight", weight, 0)
        checks.number("reward", reward, 0, 1)
        if not weight:
            self._empty += count
            return
        key = round(_STEPS * math.log(weight)), round(_GRAIN * reward)
        n, weights, rewards = self._classes.pop(key, (0, 0.0, 0.0))
        if n + count:
            self._classes[key] = (n + count, weights + count * weight, rewards + count * reward)

    def score(self, level: float = 0.95) -> Score:
        """What the units so far say."""
        units = self._empty + sum(n for n, _, _ in self._classes.values())
        if not self._classes:
            return Score(units, 0.0, 0.0)
        n, weights, rewards = np.array([self._classes[key] for key in sorted(self._classes)], dtype=np.float64).T
        moment = Moment(weights / n, np.clip(rewards / n, 0, 1), n, 0.0, 1.0)
        low, high = likelihood.interval(moment, level, moment.effective)
        return Score(units, moment.effective, float(weights.sum()) / units, moment.estimate, low, high)

    def to_json(self) -> str:
        """Exact serialisation."""
        classes = [[*key, *self._classes[key]] for key in sorted(self._classes)]
        return json.dumps({"empty": self._empty, "classes": classes})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        stored = json.loads(text)
        classes = {(weight, reward): (n, w, r) for weight, reward, n, w, r in stored["classes"]}
        return cls(stored["empty"], classes)
