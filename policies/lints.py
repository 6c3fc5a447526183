"""Linear Thompson sampling (Agrawal and Goyal 2013): an arm is served as often as it is believed to be the best."""

import numpy as np

from policies.base import Policy, register
from policies.checks import Array, Rows
from policies.config import PolicyConfig
from policies.episodes import Branch, Course
from policies.mixing import uniform
from policies.posterior import Posterior
from policies.request import Request, Scored
from policies.supervision import Supervision


@register
class LinTS(Policy):
    """Draws mean + α·width·z − c·cost with z normal for every arm, and wants the arm whose draw is the largest.

    The probability of being wanted has no closed form: it is the share of `samples` draws that an arm wins. The draws z
    belong to the arm's name and are the same at every request; the seed picks one. So the logged propensity is exactly
    that of what was done, and an estimate of ideal Thompson sampling's with the standard error `Choice.error`. An
    episode keeps the arm that it drew for as long as that arm is plausible.
    """

    name = "lints"

    def __init__(self, posterior: Posterior, config: PolicyConfig, supervision: Supervision | None = None) -> None:
        super().__init__(posterior, config, supervision)
        self.draws = config.samples
        self._normal: dict[str, Array] = {}

    def score(self, request: Request) -> Array:
        return request.beliefs.means - request.penalties

    def target(self, request: Request, scores: Array) -> Array:
        z = np.stack([self._draws(arm) for arm in request.arms])
        bonuses = self.config.alpha * request.beliefs.widths
        return np.stack([self._shares(each, bonus, z) for each, bonus in zip(scores, bonuses, strict=True)])

    def favourite(self, scored: Scored) -> int:
        wins = np.cumsum(np.rint(scored.target * self.draws))
        return int(np.searchsorted(wins, int(uniform(scored.seed, self.name) * self.draws), side="right"))

    def ways(self, scored: Scored, course: Course) -> dict[Branch, int]:
        drawn = scored.at(course.arm, scored.best)
        best = drawn if scored.candidates[drawn] else scored.best
        return super().ways(scored, course) | {"best": best}

    def _shares(self, scores: Array, bonuses: Array, z: Array) -> Array:
        winners: Rows = (scores[:, np.newaxis] + bonuses[:, np.newaxis] * z).argmax(axis=0)
        shares: Array = np.bincount(winners, minlength=len(scores)) / self.draws
        return shares

    def _draws(self, arm: str) -> Array:
        if arm not in self._normal:
            seed = int(uniform(self.name, arm) * 2**53)
            self._normal[arm] = np.random.default_rng(seed).standard_normal(self.draws)
        return self._normal[arm]
