"""Gates by task, not by content (Poly, Ponti et al. 2022): for clients that say which task a request belongs to."""

import numpy as np

from policies.base import Policy, register
from policies.checks import Array
from policies.config import PolicyConfig
from policies.posterior import Posterior
from policies.request import Request
from policies.supervision import Supervision

_EPSILON = 1e-12


@register
class Poly(Policy):
    """score = the arm's weight for the request's task, − c·cost; a request of an unknown task has the mean weights.

    The weights are the sigmoids of the task's logits, normalised over the arms of each split of the model, and averaged
    over the splits: one arm serves a request whole. An arm without logits weighs 0.
    """

    name = "poly"

    def __init__(self, posterior: Posterior, config: PolicyConfig, supervision: Supervision | None = None) -> None:
        super().__init__(posterior, config, supervision)
        if not self.supervision.tasks:
            raise ValueError("policy 'poly' has 0 tasks, expected a router that was saved with task logits")
        self._weights = task_weights(self.supervision.logits).mean(axis=1)

    def score(self, request: Request) -> Array:
        tasks = self.supervision.tasks
        labels = [self.posterior.label(arm) for arm in request.arms]
        rows = [self._weights[tasks.index(t)] if t in tasks else self._weights.mean(axis=0) for t in request.tasks]
        return self.supervision.columns(np.stack(rows), labels) - request.penalties


def task_weights(logits: Array) -> Array:
    """Weights [T,S,A] of logits [T,S,A]: sigmoids that sum to 1 over the arms."""
    sigmoids = 1 / (1 + np.exp(-logits))
    weights: Array = sigmoids / (sigmoids.sum(axis=-1, keepdims=True) + _EPSILON)
    return weights
