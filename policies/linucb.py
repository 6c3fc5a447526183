"""LinUCB with one linear model an arm (Li et al. 2010), a supervised prior and a cost of waiting."""

import numpy as np

from policies.base import Policy, register
from policies.beliefs import believe
from policies.checks import Array, Rows
from policies.request import Request


@register
class LinUCB(Policy):
    """score = θᵀx + α√(xᵀ(V+P)⁻¹x) − c·cost."""

    name = "linucb"
    optimistic = True

    def score(self, request: Request) -> Array:
        return request.beliefs.optimism

    def select(self, X: Array) -> Rows:
        """Rows [B] in `posterior.arms` of the best arms at X [B,d], at no cost: the core of a decision, and no more."""
        arms = len(self.posterior.arms)
        if arms <= self.config.all_widths:
            scores = self.posterior.widths(X)
            scores *= self.config.alpha
            scores += self.posterior.means(X)
        else:
            rows, free = self.posterior.rows(self.posterior.arms), np.zeros(arms)
            batch = X.reshape(-1, self.posterior.dimension)
            scores = believe(self.posterior, batch, rows, free, self.config).optimism.reshape(*X.shape[:-1], arms)
        best: Rows = scores.argmax(axis=-1)
        return best

    def partial_fit(self, x: Array, arm: str, reward: float) -> None:
        """Take in a decision for `arm` at x [d] together with its reward; see `Posterior.learn`."""
        self.posterior.learn(arm, x, reward)
