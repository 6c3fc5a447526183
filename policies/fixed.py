"""Always the same arm: the baseline, and the way to switch routing off."""

from policies.base import Pick, Scored, register
from policies.linucb import LinUCB


@register
class Fixed(LinUCB):
    """Serves `fixed_arm`, or the best arm where a request rules that one out.

    Its estimates are LinUCB's, so that what the router would have believed is still seen.
    """

    name = "fixed"

    def pick(self, scored: Scored) -> Pick:
        arm = self.config.fixed_arm
        return Pick(scored.arms.index(arm) if arm in scored.arms else scored.best, 1.0, explored=False)
