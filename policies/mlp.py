"""The supervised router as a policy: it never learns from rewards, and is what the bandit is compared with."""

import numpy as np

from policies.base import Request, register
from policies.checks import Array
from policies.mixing import MixingPolicy


@register
class MLP(MixingPolicy):
    """score = gate − c·cost, with a gate of 0 for an arm that the MLP does not know."""

    name = "mlp"

    def estimate(self, request: Request) -> tuple[Array, Array]:
        gates = np.array([request.gates.get(arm, 0.0) for arm in request.arms])
        return gates, np.zeros(len(gates))
