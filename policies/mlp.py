"""The supervised router as a policy: it never learns from rewards, and is what the bandit is compared with."""

import numpy as np

from policies.base import Policy, register
from policies.checks import Array
from policies.request import Request


@register
class MLP(Policy):
    """score = gate − c·cost, with a gate of 0 for an arm that the MLP does not know."""

    name = "mlp"

    def score(self, request: Request) -> Array:
        return np.nan_to_num(request.gates, nan=0.0) - request.penalties
