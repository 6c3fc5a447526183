"""What the arms are believed to earn, stacked so that all of them are scored in a few BLAS calls."""

from collections.abc import Sequence

import numpy as np

from policies import checks
from policies.checks import Array, Mask, Rows
from policies.evidence import ArmStatistics
from policies.prior import Prior


class Posterior:
    """θ [K,d] and W = (V + P)⁻¹ [K,d,d] over the arms, with V = κV₀ + (1−κ)λI + S and Vθ = κb₀ + e.

    Pending decisions narrow the width and leave the mean alone, so that a burst under late rewards does not explore
    as a herd (kin to GP-BUCB's hallucinated updates). An arm's row may change when another one is removed.
    """

    def __init__(self, prior: Prior) -> None:
        d = prior.dimension
        self.prior = prior
        self._arms: list[str] = []
        self._row: dict[str, int] = {}
        self._statistics: dict[str, ArmStatistics] = {}
        # The arrays have room for more arms than there are: adding one costs no copy of the rest.
        self._theta = np.zeros((0, d))
        self._W = np.zeros((0, d, d))
        self._new_pulls = np.zeros(0)  # infinite for an arm that needs no burn-in

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms in the order of the rows."""
        return tuple(self._arms)

    @property
    def dimension(self) -> int:
        """d, the length of a context."""
        return self.prior.dimension

    def put(self, arm: str, statistics: ArmStatistics) -> None:
        """Add the arm, or recompute it from newer statistics; overlaid decisions of it are dropped."""
        checks.array(f"evidence of {arm!r}", statistics.e, (self.dimension,))
        V, b = self.prior.with_evidence(arm, statistics)
        root = _inverse_root(V)
        theta = root.T @ (root @ b)
        wide = _inverse_root(V + statistics.P) if statistics.pending else root
        row = self._row[arm] if arm in self._row else self._append(arm)
        self._theta[row], self._W[row] = theta, wide.T @ wide
        self._new_pulls[row] = self._pulls_since_new(arm, statistics)
        self._statistics[arm] = statistics

    def remove(self, arm: str) -> None:
        """Drop the arm. ValueError: it is unknown."""
        row, last = int(self.rows([arm])[0]), len(self._arms) - 1
        for stack in (self._theta, self._W, self._new_pulls):
            stack[row] = stack[last]
        self._arms[row] = self._arms[last]
        self._row[self._arms[row]] = row
        self._arms.pop()
        del self._row[arm], self._statistics[arm]

    def overlay(self, arm: str, x: Array) -> None:
        """Count a decision that the statistics do not hold yet as pending (Sherman–Morrison on W alone)."""
        row, x = int(self.rows([arm])[0]), checks.array("x", x, (self.dimension,))
        Wx = self._W[row] @ x
        self._W[row] -= np.outer(Wx, Wx) / (1 + x @ Wx)
        self._new_pulls[row] += 1

    def rows(self, arms: Sequence[str]) -> Rows:
        """Rows of the named arms in what `means`, `widths` return. ValueError: an unknown arm."""
        if unknown := [arm for arm in arms if arm not in self._row]:
            raise ValueError(f"arm is {unknown[0]!r}, expected one of the {len(self._arms)} in {self._arms[:20]}")
        return np.array([self._row[arm] for arm in arms], dtype=np.intp)

    def statistics(self, arm: str) -> ArmStatistics:
        """The statistics that the arm was last put with. ValueError: it is unknown."""
        self.rows([arm])
        return self._statistics[arm]

    def means(self, X: Array) -> Array:
        """θᵀx for x [d] or a batch [B,d]: [..,K]."""
        means: Array = X @ self._theta[: len(self._arms)].T
        return means

    def widths(self, X: Array) -> Array:
        """√(xᵀWx) for x [d] or a batch [B,d]: [..,K]."""
        k, d = len(self._arms), self.dimension
        batch = X.reshape(-1, d)
        WX = (self._W[:k].reshape(k * d, d) @ batch.T).reshape(k, d, -1)
        squares: Array = np.einsum("kdb,bd->bk", WX, batch).reshape(*X.shape[:-1], k)
        return np.sqrt(np.maximum(squares, 0.0))

    def burning_in(self, pulls: int) -> Mask:
        """[K]: arms without labelled examples, or with new weights, pulled fewer than `pulls` times since."""
        return self._new_pulls[: len(self._arms)] < pulls

    def _pulls_since_new(self, arm: str, statistics: ArmStatistics) -> float:
        if statistics.released is not None:
            return statistics.pulls - statistics.released
        return np.inf if self.prior.knows(arm) else statistics.pulls

    def _append(self, arm: str) -> int:
        row = len(self._arms)
        if row == len(self._theta):
            self._theta, self._W, self._new_pulls = map(_grown, (self._theta, self._W, self._new_pulls))
        self._arms.append(arm)
        self._row[arm] = row
        return row


def _grown(stack: Array) -> Array:
    return np.concatenate([stack, np.zeros((max(8, len(stack)), *stack.shape[1:]))])


def _inverse_root(A: Array) -> Array:
    """R with RᵀR = A⁻¹, from A's Cholesky factor: so the inverse is symmetric and positive."""
    root: Array = np.linalg.solve(np.linalg.cholesky((A + A.T) / 2), np.eye(len(A)))
    return root
