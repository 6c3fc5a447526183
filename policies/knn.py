"""Asks the labelled examples that look most like the request; learns from more examples, not from rewards."""

from collections.abc import Sequence

import numpy as np

from policies.base import Policy, register
from policies.checks import Array
from policies.config import PolicyConfig
from policies.posterior import Posterior
from policies.request import Request
from policies.supervision import Supervision


@register
class KNN(Policy):
    """score = share of the `neighbours` nearest examples (Euclidean, in x) whose label is the arm, − c·cost."""

    name = "knn"

    def __init__(self, posterior: Posterior, config: PolicyConfig, supervision: Supervision | None = None) -> None:
        super().__init__(posterior, config, supervision)
        if not len(self.supervision.labels):
            raise ValueError("policy 'knn' has 0 labelled examples, expected a router that was saved with its examples")

    def fit(self, X: Array, labels: Sequence[str]) -> None:
        """Ask these examples from now on: contexts X [n,d] and the arm that is right for each."""
        self.supervision = self.supervision.with_examples(X, labels)

    def partial_fit(self, X: Array, labels: Sequence[str]) -> None:
        """Ask these examples, too."""
        known = self.supervision
        names = [known.arms[label] for label in known.labels]
        self.fit(np.vstack([known.X, X]), [*names, *labels])

    def score(self, request: Request) -> Array:
        known = self.supervision
        k = min(self.config.neighbours, len(known.labels))
        nearest = np.argpartition(_squared_distances(request.X, known.X), k - 1, axis=1)[:, :k]
        votes = np.stack([np.bincount(row, minlength=len(known.arms)) for row in known.labels[nearest]]) / k
        return known.columns(votes, [self.posterior.label(arm) for arm in request.arms]) - request.penalties


def _squared_distances(X: Array, Y: Array) -> Array:
    """[B,n], without the term that is the same for every example."""
    distances: Array = np.einsum("nd,nd->n", Y, Y) - 2 * X @ Y.T
    return distances
