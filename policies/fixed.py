"""Always the same arm: the baseline, and the way to switch routing off (with both ε at 0)."""

import numpy as np

from policies.base import Policy, register
from policies.checks import Array
from policies.request import Request


@register
class Fixed(Policy):
    """score = 1 for `fixed_arm`, by its name of now or its first one, and 0 for the others.

    Where a request rules that arm out it is LinUCB's score.
    """

    name = "fixed"

    def score(self, request: Request) -> Array:
        named = [self.config.fixed_arm in (arm, self.posterior.label(arm)) for arm in request.arms]
        if not any(named):
            return request.beliefs.optimism
        wanted = np.array(named)
        return np.broadcast_to(wanted.astype(np.float64), request.beliefs.means.shape)
