"""The stochastic logging policy: mostly the best arm, sometimes the supervised one, sometimes a plausible one.

LinUCB alone is deterministic; its decisions could not be evaluated offline. Here every choice has an exact propensity.
"""

from hashlib import blake2b

import numpy as np

from policies.base import Policy, PolicyConfig, Scored
from policies.checks import Array, Mask
from policies.episodes import Branch, Step, begin


class MixingPolicy(Policy):
    """A policy that draws from the mixture around its best arm. What is left to a subclass is the estimate."""

    def pick(self, scored: Scored) -> Step:
        burning_in = self.posterior.burning_in(self.config.burn_in)[scored.rows]
        candidates = plausible(scored.scores, scored.bonuses) | burning_in
        branch, position = draw(scored, candidates, self.config)
        ways = masses(position, scored.best, scored.supervised, candidates, self.config)
        return begin(scored.arms, position, scored.best, branch, ways)


def plausible(scores: Array, bonuses: Array) -> Mask:
    """Arms [K] whose upper bound, the score, reaches the lower bound of the best arm; bonuses [K] are α·width."""
    best = np.argmax(scores)
    reached: Mask = scores >= scores[best] - 2 * bonuses[best]
    return reached


def masses(position: int, best: int, supervised: int, candidates: Mask, config: PolicyConfig) -> dict[Branch, float]:
    """The terms of p(a|x) = (1−ε_s−ε_u)·1[best] + ε_s·1[supervised] + ε_u·1[candidates]/|candidates| at `position`."""
    terms: dict[Branch, float] = {}
    if position == best:
        terms["best"] = 1 - config.epsilon_supervised - config.epsilon_uniform
    if position == supervised and config.epsilon_supervised:
        terms["supervised"] = config.epsilon_supervised
    if candidates[position] and config.epsilon_uniform:
        terms["kept"] = config.epsilon_uniform / int(candidates.sum())
    return terms


def draw(scored: Scored, candidates: Mask, config: PolicyConfig) -> tuple[Branch, int]:
    """How the coin falls, and the position that this leads to. Both depend on the seed, the order of arms does not."""
    coin = _uniform(scored.seed)
    if coin < config.epsilon_uniform:
        likes = np.flatnonzero(candidates).tolist()
        return "kept", max(likes, key=lambda each: _uniform(scored.seed, scored.arms[each]))
    if coin < config.epsilon_uniform + config.epsilon_supervised:
        return "supervised", scored.supervised
    return "best", scored.best


def _uniform(*key: str) -> float:
    """A number in [0, 1) that depends on the key alone, on every machine and in every release."""
    digest = blake2b("\0".join(key).encode(), digest_size=8).digest()
    return float((int.from_bytes(digest, "big") >> 11) * 2.0**-53)
