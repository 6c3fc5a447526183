"""Always the same arm: the baseline, and the way to switch routing off (with both ε at 0)."""

import numpy as np

from policies.base import Policy, register
from policies.checks import Array
from policies.request import Request


@register
class Fixed(Policy):
    """score = 1 for `fixed_arm` and 0 for the others; where a request rules that arm out, LinUCB's score."""

    name = "fixed"

    def score(self, request: Request) -> Array:
        if self.config.fixed_arm not in request.arms:
            return request.beliefs.optimism
        wanted = np.array([arm == self.config.fixed_arm for arm in request.arms])
        return np.broadcast_to(wanted.astype(np.float64), request.beliefs.means.shape)
