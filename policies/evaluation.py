"""What a policy would have earned on decisions that another one took: off-policy estimates with intervals.

A unit earned one reward: a decision of its own, or all decisions of an episode. It weighs w = Π π(a|x)/p(a|x) over its
decisions. IPS is mean(wr); SNIPS Σwr/Σw (Swaminathan and Joachims 2015); DR mean(q̂(x,π) + w(r − q̂(x,a))) (Dudík et al.
2011; over the steps of an episode Jiang and Li 2016); replay the mean where the choices agree (Li et al. 2011).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from policies import checks, likelihood
from policies.checks import Array, Mask, Rows
from policies.likelihood import Moment
from policies.reward_model import cross_fitted

_UNSEEN = 0.02  # share of a policy's choices that a log need not have covered
_SURE = 0.9999


class NotEvaluable(ValueError):
    """The log cannot say what the policy would have earned; the message says why."""


@dataclass(frozen=True, eq=False)
class Log:
    """n decisions over K arms in m units, which are numbered from 0; the rows of a unit are in order of its decisions.

    X [n,d] contexts, eligible [n,K], action [n] the index of the arm that served, propensity [n] its probability, NaN
    where none was logged, unit [n], reward [m] in [0, 1].
    """

    X: Array
    eligible: Mask
    action: Rows
    propensity: Array
    unit: Rows
    reward: Array

    def __post_init__(self) -> None:
        n = len(self.action)
        checks.array("X", self.X, (n, None))
        for name in ("eligible", "propensity", "unit"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, expected {n}, one a decision")
        if not np.array_equal(np.unique(self.unit), np.arange(len(self.reward))):
            raise ValueError(f"unit does not name each of 0 to {len(self.reward) - 1}, expected a reward for each unit")
        if not ((self.reward >= 0) & (self.reward <= 1)).all():
            raise ValueError(f"reward runs from {self.reward.min()} to {self.reward.max()}, expected [0, 1]")
        if not self.eligible[np.arange(n), self.action].all():
            raise ValueError("action names arms that were not eligible, expected the arm that served")

    @property
    def had_choice(self) -> Mask:
        """[n]: decisions with more than one eligible arm; only they say something of a policy."""
        several: Mask = self.eligible.sum(1) > 1
        return several

    def of(self, rows: Mask) -> "Log":
        """Only the decisions `rows` [n], and the units that they belong to."""
        kept, unit = np.unique(self.unit[rows], return_inverse=True)
        columns = self.X[rows], self.eligible[rows], self.action[rows], self.propensity[rows]
        return Log(*columns, unit, self.reward[kept])


class Estimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What the log says of a policy: `estimates` by name.

    `units` with `decisions` were used, `left_out` decisions had no choice. `effective` is (Σw)²/Σw², `matched` the
    share of units in which the policy's first choices are those that served, `mean_weight` is 1 but for chance.
    """

    estimates: dict[str, Estimate]
    units: int
    decisions: int
    left_out: int
    effective: float
    matched: float
    mean_weight: float
    level: float


def evaluate(log: Log, target: Array, *, level: float = 0.95, least: float = 30.0, folds: int = 5) -> Evaluation:
    """The value of a policy that chooses with the probabilities `target` [n,K], renormalised on the eligible arms.

    NotEvaluable: no decision with a choice, propensities missing, a policy that goes where the log never went, or an
    effective sample below `least`. DR's q̂ is cross-fitted over `folds` parts of the units.
    """
    checks.number("level", level, 0.5, 1 - 1e-9)
    used = log.of(log.had_choice)
    target = _on_eligible(target[log.had_choice], used.eligible)
    _refuse_unlogged(used)
    ratio = target[np.arange(len(target)), used.action] / used.propensity
    weight = np.ones(len(used.reward))
    np.multiply.at(weight, used.unit, ratio)
    _refuse_unsupported(used, target, weight, least)
    first = target.argmax(1) == used.action
    matched = np.bincount(used.unit, first, len(weight)) == np.bincount(used.unit, minlength=len(weight))
    return Evaluation(
        _estimates(used.reward, weight, _doubly_robust(used, target, ratio, folds), matched, level),
        units=len(used.reward),
        decisions=len(used.action),
        left_out=len(log.action) - len(used.action),
        effective=effective_size(weight),
        matched=float(matched.mean()),
        mean_weight=float(weight.mean()),
        level=level,
    )


def effective_size(weight: Array) -> float:
    """(Σw)²/Σw²: how many equally weighted units the weights [m] are worth; 0 if all are 0."""
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / square if square else 0.0


def _estimates(reward: Array, weight: Array, dr: Array, matched: Mask, level: float) -> dict[str, Estimate]:
    one, most = np.ones(len(reward)), float(weight.max())
    moments = {
        "ips": Moment(one, weight * reward, one, 0.0, most),
        "snips": Moment(weight, reward, one, 0.0, 1.0),
        "dr": Moment(one, dr, one, *_either_way(dr, reward, weight)),
    }
    if matched.any():
        moments["replay"] = Moment(one[matched], reward[matched], one[matched], 0.0, 1.0)
    size = effective_size(weight)
    return {name: estimate(moment, level, min(size, moment.effective)) for name, moment in moments.items()}


def _either_way(dr: Array, reward: Array, weight: Array) -> tuple[float, float]:
    """Where DR's terms may lie: each unit might have earned 0 or 1, whatever it did earn.

    Where few units weigh much, and q̂ foresaw what they happened to earn, the terms alone would say that none can fail.
    """
    failed = dr - weight * reward
    return min(0.0, float(failed.min())), max(1.0, float((failed + weight).max()))


def estimate(moment: Moment, level: float, effective: float) -> Estimate:
    """The moment's value with its interval."""
    return Estimate(moment.estimate, *likelihood.interval(moment, level, effective))


def _doubly_robust(log: Log, target: Array, ratio: Array, folds: int) -> Array:
    """DR's terms [m]. From an episode's last decision back: V(x) + ratio·(what follows − q̂(x,a)), r after the last."""
    part = np.random.default_rng(0).permutation(len(log.reward))[log.unit] % folds
    Q = cross_fitted(log.X, log.action, log.reward[log.unit], part, target.shape[1])
    V, q = (Q * target).sum(1), Q[np.arange(len(Q)), log.action]
    value = log.reward.astype(np.float64)
    for rows in _steps_from_the_last(log.unit):
        unit = log.unit[rows]
        value[unit] = V[rows] + ratio[rows] * (value[unit] - q[rows])
    return value


def _steps_from_the_last(unit: Rows) -> list[Rows]:
    """Rows of each unit's last decision, of each one's last but one, and so on."""
    order = np.argsort(unit, kind="stable")
    ends = np.cumsum(np.bincount(unit))
    behind = ends[unit[order]] - 1 - np.arange(len(unit))
    return [order[behind == back] for back in range(int(behind.max()) + 1)]


def _on_eligible(target: Array, eligible: Mask) -> Array:
    checks.array("target", target, eligible.shape)
    masked = np.where(eligible, target, 0.0)
    total = masked.sum(1, keepdims=True)
    if (masked < 0).any() or not (total > 0).all():
        raise ValueError("target has rows without probability on an eligible arm, expected some on each")
    shares: Array = masked / total
    return shares


def _refuse_unlogged(log: Log) -> None:
    if not len(log.action):
        raise NotEvaluable("no decision has both a reward and a choice of arms: nothing to evaluate on")
    missing = ~((log.propensity > 0) & (log.propensity <= 1))
    if missing.any():
        raise NotEvaluable(
            f"propensity is missing or outside (0, 1] in {missing.sum()} of {len(missing)} decisions: "
            "without the probability that an arm was chosen with, its outcome cannot be reweighted"
        )


def _refuse_unsupported(log: Log, target: Array, weight: Array, least: float) -> None:
    certain = log.propensity >= 1
    elsewhere = float(np.where(certain, 1 - target[np.arange(len(target)), log.action], 0.0).mean())
    if elsewhere > _UNSEEN:
        raise NotEvaluable(
            f"{certain.mean():.0%} of the decisions were taken without exploration, and the policy differs on "
            f"{elsewhere:.1%}: the log cannot show what its choices would have earned"
        )
    if _most_mean_weight(log, weight) < 1 - _UNSEEN:
        raise NotEvaluable(
            f"the weights have mean {weight.mean():.3f}, expected 1: about {1 - weight.mean():.0%} of the policy's "
            "choices had no chance in the log"
        )
    if effective_size(weight) < least:
        raise NotEvaluable(
            f"the effective sample size is {effective_size(weight):.1f} of {len(weight)}, expected at least {least:g}: "
            "the log holds too few of the policy's choices"
        )


def _most_mean_weight(log: Log, weight: Array) -> float:
    """The largest mean weight that the log does not rule out, given how much a unit of it can weigh."""
    propensity = np.ones(len(weight))
    np.multiply.at(propensity, log.unit, log.propensity)
    one, most = np.ones(len(weight)), max(1 / float(propensity.min()), float(weight.max()))
    return likelihood.interval(Moment(one, weight, one, 0.0, most), _SURE, len(weight))[1]
