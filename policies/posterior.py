"""What the arms are believed to earn, stacked so that all of them are scored in a few BLAS calls."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policies import checks
from policies.checks import Array, Mask, Rows
from policies.evidence import ArmStatistics
from policies.prior import Prior
from policies.request import Context
from policies.triangle import Triangle

_ROUNDING = 4096  # rank-one updates after which a factor is computed anew even if nothing decays


class Prepared(NamedTuple):
    """An arm as the stacks will hold it: θ [d], packed W [t], and the pulls that count for its burn-in."""

    arm: str
    statistics: ArmStatistics
    theta: Array
    W: Array
    new_pulls: float


class Posterior:
    """θ [K,d] and W = (V + P)⁻¹, packed [K,t], over the arms, with V = κV₀ + (1−κ)λI + S and Vθ = κb₀ + e.

    Pending decisions narrow the width and leave the mean alone, so that a burst under late rewards does not explore
    as a herd (kin to GP-BUCB's hallucinated updates). An arm's row may change when another one is removed.
    """

    def __init__(self, prior: Prior) -> None:
        d = prior.dimension
        self.prior = prior
        self._triangle = Triangle(d)
        self._arms: tuple[str, ...] = ()
        self._row: dict[str, int] = {}
        self._everyone: Rows = np.arange(0)
        self._statistics: dict[str, ArmStatistics] = {}
        self._updates: dict[str, int] = {}  # rank-one updates of an arm since its last factor
        self._renamed: dict[str, str] = {}  # arm -> what the trained router calls it
        # The arrays have room for more arms than there are: adding one costs no copy of the rest.
        self._theta = np.zeros((0, d))
        self._W = np.zeros((0, self._triangle.size))
        self._new_pulls = np.zeros(0)  # infinite for an arm that needs no burn-in

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms in the order of the rows."""
        return self._arms

    @property
    def dimension(self) -> int:
        """d, the length of a context."""
        return self.prior.dimension

    def put(self, arm: str, statistics: ArmStatistics) -> None:
        """Add the arm, or recompute it from newer statistics; overlaid decisions of it are dropped."""
        self.swap(self.prepare(arm, statistics))

    def prepare(self, arm: str, statistics: ArmStatistics) -> Prepared:
        """Compute what `swap` puts in place. It changes nothing, so it may run in another thread."""
        checks.array(f"evidence of {arm!r}", statistics.e, (self.dimension,))
        V, b = self.prior.with_evidence(arm, statistics)
        root = _inverse_root(V)
        theta = root.T @ (root @ b)
        wide = _inverse_root(V + statistics.P) if statistics.pending else root
        packed = self._triangle.pack(wide.T @ wide)
        return Prepared(arm, statistics, theta, packed, self._pulls_since_new(arm, statistics))

    def swap(self, prepared: Prepared) -> None:
        """Put a prepared arm in place of what there is of it."""
        arm = prepared.arm
        row = self._row[arm] if arm in self._row else self._append(arm)
        self._theta[row], self._W[row] = prepared.theta, prepared.W
        self._new_pulls[row] = prepared.new_pulls
        self._statistics[arm] = prepared.statistics
        self._renamed.pop(arm, None)
        if prepared.statistics.former:
            self._renamed[arm] = prepared.statistics.label(arm)
        self._updates[arm] = 0

    def learn(self, arm: str, x: Array, reward: float, weight: float = 1.0, time: float = 0.0) -> None:
        """Take in a decision together with its reward: what a learner does whose rewards are never late.

        The arm's statistics are changed. θ and W follow by a rank-one update (Sherman and Morrison 1950), and exactly
        after every `refresh` such updates: in between, what S forgets at γ < 1 is not yet forgotten by θ and W.
        """
        statistics, row = self.statistics(arm), self._row[arm]
        decays = statistics.discount < 1
        statistics.observe(x, reward, weight, time)
        self._updates[arm] += 1
        if statistics.pending or self._updates[arm] >= (self.prior.config.refresh if decays else _ROUNDING):
            self.put(arm, statistics)
            return
        theta, W = self._theta[row], self._W[row]
        Wx = self._triangle.unpack(W) @ x
        gain = weight / (1 + weight * float(x @ Wx))
        theta += (gain * (reward - float(theta @ x))) * Wx
        W -= self._triangle.outer(Wx, gain)
        self._new_pulls[row] += 1

    def remove(self, arm: str) -> None:
        """Drop the arm. ValueError: it is unknown."""
        row, last = int(self.rows([arm])[0]), len(self._arms) - 1
        for stack in (self._theta, self._W, self._new_pulls):
            stack[row] = stack[last]
        arms = list(self._arms)
        arms[row] = arms[last]
        self._name(arms[:last])
        del self._statistics[arm], self._updates[arm]
        self._renamed.pop(arm, None)

    def overlay(self, arm: str, x: Array) -> None:
        """Count a decision that the statistics do not hold yet as pending (Sherman–Morrison on W alone)."""
        row, x = int(self.rows([arm])[0]), checks.array("x", x, (self.dimension,))
        Wx = self._triangle.unpack(self._W[row]) @ x
        self._W[row] -= self._triangle.outer(Wx, 1 / (1 + float(x @ Wx)))
        self._new_pulls[row] += 1

    def named(self, context: Context) -> Context:
        """The context with its gates under the arms' names of now; the trained router knows their first ones."""
        if not self._renamed:
            return context
        gates = {name: gate for name, gate in context.gates.items() if name not in self._renamed.values()}
        known = {arm: context.gates[label] for arm, label in self._renamed.items() if label in context.gates}
        return context._replace(gates=gates | known)

    def rows(self, arms: Sequence[str]) -> Rows:
        """Rows of the named arms in what `means`, `widths` return. ValueError: an unknown arm."""
        if arms == self._arms:
            return self._everyone
        if unknown := [arm for arm in arms if arm not in self._row]:
            raise ValueError(f"arm is {unknown[0]!r}, expected one of the {len(self._arms)} in {list(self._arms[:20])}")
        return np.array([self._row[arm] for arm in arms], dtype=np.intp)

    def statistics(self, arm: str) -> ArmStatistics:
        """The statistics that the arm was last put with. ValueError: it is unknown."""
        if arm not in self._row:
            self.rows([arm])
        return self._statistics[arm]

    def means(self, X: Array, rows: Rows | None = None) -> Array:
        """θᵀx for x [d] or a batch [B,d]: [..,K] of all arms, or of the arms `rows`."""
        means: Array = X @ self._of(self._theta, rows).T
        return means

    def widths(self, X: Array, rows: Rows | None = None) -> Array:
        """√(xᵀWx) for x [d] or a batch [B,d]: [..,K] of all arms, or of the arms `rows`."""
        squares = self._of(self._W, rows) @ self._triangle.form(X)
        np.maximum(squares, 0.0, out=squares)
        widths: Array = np.sqrt(squares, out=squares).T
        return widths

    def widest(self, X: Array) -> Array:
        """‖x‖/√λ [..]: no arm's width is larger, since V is never below λI."""
        widest: Array = np.linalg.norm(X, axis=-1) / np.sqrt(self.prior.config.ridge)
        return widest

    def burning_in(self, pulls: int) -> Mask:
        """[K]: arms without labelled examples, or with new weights, pulled fewer than `pulls` times since."""
        return self._new_pulls[: len(self._arms)] < pulls

    def centroid(self, arm: str) -> Array | None:
        """The mean example x̄ [d] of the arm; None if there is none."""
        return self.prior.centroid(self.label(arm))

    def label(self, arm: str) -> str:
        """What the trained router calls the arm: its first name."""
        return self._renamed.get(arm, arm)

    def _of(self, stack: Array, rows: Rows | None) -> Array:
        if rows is None or rows is self._everyone:
            return stack[: len(self._arms)]
        return stack[rows]

    def _pulls_since_new(self, arm: str, statistics: ArmStatistics) -> float:
        if statistics.released is not None:
            return statistics.pulls - statistics.released
        return np.inf if self.prior.knows(statistics.label(arm)) else statistics.pulls

    def _append(self, arm: str) -> int:
        row = len(self._arms)
        if row == len(self._theta):
            self._theta, self._W, self._new_pulls = map(_grown, (self._theta, self._W, self._new_pulls))
        self._name([*self._arms, arm])
        return row

    def _name(self, arms: list[str]) -> None:
        self._arms, self._row = tuple(arms), {arm: row for row, arm in enumerate(arms)}
        self._everyone = np.arange(len(arms))


def _grown(stack: Array) -> Array:
    return np.concatenate([stack, np.zeros((max(8, len(stack)), *stack.shape[1:]))])


def _inverse_root(A: Array) -> Array:
    """R with RᵀR = A⁻¹, from A's Cholesky factor: so the inverse is symmetric and positive."""
    root: Array = np.linalg.solve(np.linalg.cholesky((A + A.T) / 2), np.eye(len(A)))
    return root
