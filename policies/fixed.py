"""Always the same arm: the baseline, and the way to switch routing off."""

from policies.base import Pick, Scored, register
from policies.linucb import LinUCB


@register
class Fixed(LinUCB):
    """Serves `fixed_arm`; its estimates are LinUCB's, so that what the router would have believed is still seen."""

    name = "fixed"

    def pick(self, scored: Scored) -> Pick:
        arm = self.config.fixed_arm
        if arm not in scored.arms:
            raise ValueError(f"fixed_arm is {arm!r}, expected one of the eligible {list(scored.arms)}")
        return Pick(scored.arms.index(arm), 1.0, explored=False)
