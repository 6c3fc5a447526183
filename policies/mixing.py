"""The stochastic logging policy: mostly the best arm, sometimes the supervised one, sometimes a plausible one.

LinUCB alone is deterministic; its decisions could not be evaluated offline. Here every choice has an exact propensity.
"""

from hashlib import blake2b

import numpy as np

from policies.base import Pick, Policy, PolicyConfig, Scored
from policies.checks import Array, Mask


class MixingPolicy(Policy):
    """A policy that draws from the mixture around its best arm. What is left to a subclass is the estimate."""

    def pick(self, scored: Scored) -> Pick:
        burning_in = self.posterior.burning_in(self.config.burn_in)[scored.rows]
        candidates = plausible(scored.scores, scored.bonuses) | burning_in
        position = draw(scored, candidates, self.config)
        propensity = probabilities(scored.best, scored.supervised, candidates, self.config)[position]
        return Pick(position, float(propensity), position != scored.best)


def plausible(scores: Array, bonuses: Array) -> Mask:
    """Arms [K] whose upper bound, the score, reaches the lower bound of the best arm; bonuses [K] are α·width."""
    best = np.argmax(scores)
    reached: Mask = scores >= scores[best] - 2 * bonuses[best]
    return reached


def probabilities(best: int, supervised: int, candidates: Mask, config: PolicyConfig) -> Array:
    """p [K] = (1−ε_s−ε_u)·1[best] + ε_s·1[supervised] + ε_u·1[candidates]/|candidates|."""
    p = np.where(candidates, config.epsilon_uniform / candidates.sum(), 0.0)
    p[supervised] += config.epsilon_supervised
    p[best] += 1 - config.epsilon_supervised - config.epsilon_uniform
    p /= p.sum()
    return p


def draw(scored: Scored, candidates: Mask, config: PolicyConfig) -> int:
    """A position drawn from `probabilities`. The seed alone decides the branch, and the order in which it likes arms.

    So an episode, one seed, keeps its coin, and keeps its candidate for as long as that stays one.
    """
    coin = _uniform(scored.seed)
    if coin < config.epsilon_uniform:
        return max(np.flatnonzero(candidates).tolist(), key=lambda each: _uniform(scored.seed, scored.arms[each]))
    return scored.supervised if coin < config.epsilon_uniform + config.epsilon_supervised else scored.best


def _uniform(*key: str) -> float:
    """A number in [0, 1) that depends on the key alone, on every machine and in every release."""
    digest = blake2b("\0".join(key).encode(), digest_size=8).digest()
    return float((int.from_bytes(digest, "big") >> 11) * 2.0**-53)
