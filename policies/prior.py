"""The supervised data set as a Bayesian prior over each arm's reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from policies import checks
from policies.checks import Array, Mask
from policies.credit import Scheme

if TYPE_CHECKING:
    from policies.evidence import ArmStatistics


@dataclass(frozen=True)
class LearningConfig:
    """Settings of what is learned.

    discount: γ, per decision of the arm.  ridge: λ.  prior_weight: n_eff, the examples that the labelled set counts
    as.  prior_wrong: ρ, weight of an example under another arm's label.  new_arm_weight: n₀, examples that the guess
    about a new arm counts as.  new_arm_mean: that guess, in reward.  version_carry: what is kept at new weights.
    credit, credit_discount: how an episode's reward is shared (policies/credit.py).
    drift_*: threshold (0: no test) and slack of the residual test, in standard deviations; at an alarm κ is multiplied
    by drift_trust and the evidence by drift_carry.  refresh: rank-one updates at γ < 1 after which `Posterior.learn`
    computes an arm's factor anew.
    """

    discount: float = 0.998
    ridge: float = 1.0
    prior_weight: float = 100.0
    prior_wrong: float = 0.1
    new_arm_weight: float = 1.0
    new_arm_mean: float = 0.5
    version_carry: float = 0.5
    credit: Scheme = "equal"
    credit_discount: float = 0.9
    drift_threshold: float = 10.0
    drift_slack: float = 0.5
    drift_trust: float = 0.25
    drift_carry: float = 0.25
    refresh: int = 8

    def __post_init__(self) -> None:
        checks.number("discount", self.discount, np.finfo(np.float64).tiny, 1)
        checks.number("ridge", self.ridge, np.finfo(np.float64).tiny)
        checks.number("prior_weight", self.prior_weight, 0)
        checks.number("prior_wrong", self.prior_wrong, 0, 1)
        checks.number("new_arm_weight", self.new_arm_weight, 0)
        checks.number("new_arm_mean", self.new_arm_mean, 0, 1)
        checks.number("version_carry", self.version_carry, 0, 1)
        checks.number("credit_discount", self.credit_discount, 0, 1)
        if self.credit not in get_args(Scheme):
            raise ValueError(f"credit is {self.credit!r}, expected one of {get_args(Scheme)}")
        checks.number("drift_threshold", self.drift_threshold, 0)
        checks.number("drift_slack", self.drift_slack, 0)
        checks.number("drift_trust", self.drift_trust, 0, 1)
        checks.number("drift_carry", self.drift_carry, 0, 1)
        checks.number("refresh", self.refresh, 1)


class _Sums(NamedTuple):
    A_pos: Array
    A_neg: Array
    b_pos: Array
    b_neg: Array


@dataclass(frozen=True, eq=False)
class SupervisedStatistics:
    """Unscaled sums over n labelled examples, so that weights can be chosen later.

    A_pos, A_neg [K,d,d] and b_pos, b_neg [K,d] align with `arms`; moment [d,d] is the mean of xxᵀ over all examples.
    """

    arms: tuple[str, ...]
    n: int
    moment: Array
    A_pos: Array
    A_neg: Array
    b_pos: Array
    b_neg: Array

    def __post_init__(self) -> None:
        k, d = len(self.arms), len(self.moment)
        checks.number("n", self.n, 1)
        checks.array("moment", self.moment, (d, d))
        for name in ("A_pos", "A_neg"):
            checks.array(name, getattr(self, name), (k, d, d))
        for name in ("b_pos", "b_neg"):
            checks.array(name, getattr(self, name), (k, d))


def supervised_statistics(
    X: Array, labels: Sequence[str], arms: Sequence[str], outcomes: Array | None = None
) -> SupervisedStatistics:
    """Sums over contexts X [n,d] with the arm that is right for each, and measured rewards [n,K] (NaN: not measured).

    Where nothing was measured a label stands for reward 1 and another label for 0. An arm that no label names counts
    each of its measured examples fully; so does every arm on an example without a label (""), which says nothing else.
    ValueError: a label outside `arms`, an arm with neither labels nor outcomes.
    """
    X = checks.array("X", X, (len(labels), None))
    names = np.array(labels, dtype=np.str_)
    if unknown := sorted(set(labels) - {*arms, ""}):
        raise ValueError(f"labels hold {unknown}, expected only {list(arms)}")
    measured = np.full((len(X), len(arms)), np.nan) if outcomes is None else outcomes
    checks.array("outcomes", np.nan_to_num(measured, nan=0.0, posinf=np.inf, neginf=-np.inf), (len(X), len(arms)))
    sums = [_sums(X, names == arm, names == "", measured[:, k], arm) for k, arm in enumerate(arms)]
    stacked = _Sums(*(np.stack(parts) for parts in zip(*sums, strict=True)))
    told = int(((names != "") | ~np.isnan(measured).all(axis=1)).sum())
    return SupervisedStatistics(tuple(arms), told, X.T @ X / len(X), *stacked)


def _sums(X: Array, labelled: Mask, unlabelled: Mask, outcome: Array, arm: str) -> _Sums:
    measured = ~np.isnan(outcome)
    positive, negative = measured, np.zeros_like(measured)
    if labelled.any():
        positive, negative = labelled | (unlabelled & measured), ~labelled & ~unlabelled
    if not positive.any():
        raise ValueError(f"arm {arm!r} has neither labels nor outcomes, expected one of them")
    right, wrong = X[positive], X[negative]
    reward_right = np.where(measured, outcome, 1.0)[positive]
    reward_wrong = np.where(measured, outcome, 0.0)[negative]
    return _Sums(right.T @ right, wrong.T @ wrong, right.T @ reward_right, wrong.T @ reward_wrong)


def cosines(X: Array, C: Array) -> Array:
    """[B,n] between contexts X [B,d] and centroids C [n,d], without their constant first entry."""
    similar: Array = _directions(X[:, 1:]) @ _directions(C[:, 1:]).T
    return similar


def _directions(V: Array) -> Array:
    lengths = np.linalg.norm(V, axis=1, keepdims=True)
    directions: Array = V / np.where(lengths > 0, lengths, 1.0)
    return directions


class Prior:
    """V₀ [d,d] and b₀ [d] of any arm. One without labelled examples gets a weak guess: of the arms that it is like."""

    def __init__(self, statistics: SupervisedStatistics, config: LearningConfig) -> None:
        self.statistics = statistics
        self.config = config
        self._rows = {arm: row for row, arm in enumerate(statistics.arms)}
        self._means: dict[tuple[str, ...], Array] = {}

    @property
    def dimension(self) -> int:
        """d, the length of a context."""
        return len(self.statistics.moment)

    def knows(self, arm: str) -> bool:
        """Whether labelled examples or outcomes stand behind the arm."""
        return arm in self._rows

    def of(self, arm: str, like: Sequence[str] = ()) -> tuple[Array, Array]:
        """V₀ = λI + s(A⁺ + ρA⁻) and b₀ = s(b⁺ + ρb⁻) with s = n_eff/n; for a new arm λI + n₀C and V₀m.

        m is the mean θ₀ of the known arms that a new one is `like`; without any it is the same reward everywhere.
        """
        ridge = self.config.ridge * np.eye(self.dimension)
        if arm not in self._rows:
            return self._new(ridge, [known for known in like if known in self._rows])
        row, known = self._rows[arm], self.statistics
        scale, wrong = self.config.prior_weight / known.n, self.config.prior_wrong
        V0 = ridge + scale * (known.A_pos[row] + wrong * known.A_neg[row])
        return V0, scale * (known.b_pos[row] + wrong * known.b_neg[row])

    def centroid(self, arm: str) -> Array | None:
        """The mean labelled example x̄ [d] of the arm; None for an arm without any."""
        if arm not in self._rows:
            return None
        total: Array = self.statistics.A_pos[self._rows[arm]][:, 0]  # x[0] is always 1
        centroid: Array = total / total[0]
        return centroid

    def nearest(self, example: Array, n: int) -> list[str]:
        """Up to n arms whose mean examples point most nearly the way of `example` [d], nearest first.

        What a new arm is like, told from a mean example of its own (LoraRetriever, Zhao et al. 2024).
        """
        names = self.statistics.arms
        centroids = np.stack([centroid for arm in names if (centroid := self.centroid(arm)) is not None])
        similar = cosines(checks.array("example", example, (self.dimension,))[np.newaxis], centroids)[0]
        return [names[k] for k in np.argsort(-similar, kind="stable")[:n] if similar[k] > 0]

    def mean_of(self, arm: str, like: Sequence[str] = ()) -> Array:
        """θ₀ [d] = V₀⁻¹b₀, what the arm is expected to earn before any reward."""
        key = (arm, *like)
        if key not in self._means:
            V0, b0 = self.of(arm, like)
            self._means[key] = np.asarray(np.linalg.solve(V0, b0), dtype=np.float64)
        return self._means[key]

    def with_evidence(self, arm: str, statistics: "ArmStatistics") -> tuple[Array, Array]:
        """V = κV₀ + (1−κ)λI + S, symmetric, and b = κb₀ + e."""
        V0, b0 = self.of(statistics.label(arm), statistics.like)
        kappa = statistics.kappa
        V = kappa * V0 + statistics.S
        V[np.diag_indices_from(V)] += (1 - kappa) * self.config.ridge
        return (V + V.T) / 2, kappa * b0 + statistics.e

    def _new(self, ridge: Array, like: Sequence[str]) -> tuple[Array, Array]:
        V0 = ridge + self.config.new_arm_weight * self.statistics.moment
        if like:
            return V0, V0 @ np.mean([self.mean_of(known) for known in like], axis=0)
        # x[0] is always 1, so this column of V₀ makes the mean the same for every context.
        return V0, self.config.new_arm_mean * V0[:, 0]
