"""Always the same arm: the baseline, and the way to switch routing off."""

from policies.base import Scored, register
from policies.episodes import Branch, Course, Step, begin
from policies.linucb import LinUCB


@register
class Fixed(LinUCB):
    """Serves `fixed_arm`, or the best arm where a request rules that one out.

    Its estimates are LinUCB's, so that what the router would have believed is still seen.
    """

    name = "fixed"

    def pick(self, scored: Scored) -> Step:
        position = scored.at(self.config.fixed_arm, scored.best)
        return begin(scored.arms, position, position, "kept", {"kept": 1.0})

    def ways(self, scored: Scored, course: Course) -> dict[Branch, int]:
        return dict.fromkeys(super().ways(scored, course), scored.at(self.config.fixed_arm, scored.best))
