"""The stochastic logging policy: mostly the policy's own choice, sometimes the supervised arm or a plausible one.

LinUCB alone is deterministic; its decisions could not be evaluated offline. Here every choice has an exact propensity:
p(a|x) = (1−ε_s−ε_u)·target(a|x) + ε_s·1[a = supervised] + ε_u·1[a in candidates]/|candidates|.
"""

from hashlib import blake2b

import numpy as np

from policies.checks import Array, Mask, Rows
from policies.config import PolicyConfig
from policies.episodes import Branch, Step, begin
from policies.request import Scored


def pick(scored: Scored, favourite: int, config: PolicyConfig) -> Step:
    """Draw an arm, as the first step of an episode or for a decision by itself; `favourite` is the policy's draw."""
    branch, position = draw(scored, favourite, config)
    ways = masses(position, scored.target, scored.supervised, scored.candidates, config)
    return begin(scored.arms, position, scored.best, branch, ways)


def plausible(optimism: Array, bonuses: Array) -> Mask:
    """Arms [..,K] whose optimistic score reaches the lower bound of the best arm; bonuses [..,K] are α·width in it."""
    best = optimism.argmax(axis=-1)[..., np.newaxis]
    bound = np.take_along_axis(optimism, best, -1) - 2 * np.take_along_axis(bonuses, best, -1)
    reached: Mask = optimism >= bound
    return reached


def certain(positions: Rows, k: int) -> Array:
    """Distributions [B,k] that are all on one position each."""
    target = np.zeros((len(positions), k))
    target[np.arange(len(positions)), positions] = 1.0
    return target


def distribution(target: Array, supervised: Rows, candidates: Mask, config: PolicyConfig) -> Array:
    """p(a|x) [B,K] of the mixture."""
    own = 1 - config.epsilon_supervised - config.epsilon_uniform
    p = own * target + config.epsilon_supervised * certain(supervised, target.shape[1])
    p += config.epsilon_uniform * candidates / candidates.sum(axis=1, keepdims=True)
    mixed: Array = p / p.sum(axis=1, keepdims=True)
    return mixed


def masses(
    position: int, target: Array, supervised: int, candidates: Mask, config: PolicyConfig
) -> dict[Branch, float]:
    """The terms of p(a|x) at `position`, by the branch of the coin that leads there; target and candidates are [K]."""
    terms: dict[Branch, float] = {}
    if target[position]:
        terms["best"] = (1 - config.epsilon_supervised - config.epsilon_uniform) * float(target[position])
    if position == supervised and config.epsilon_supervised:
        terms["supervised"] = config.epsilon_supervised
    if candidates[position] and config.epsilon_uniform:
        terms["kept"] = config.epsilon_uniform / int(candidates.sum())
    return terms


def draw(scored: Scored, favourite: int, config: PolicyConfig) -> tuple[Branch, int]:
    """How the coin falls, and the position that this leads to. Both depend on the seed, the order of arms does not."""
    coin = uniform(scored.seed)
    if coin < config.epsilon_uniform:
        likes = np.flatnonzero(scored.candidates).tolist()
        return "kept", max(likes, key=lambda each: uniform(scored.seed, scored.arms[each]))
    if coin < config.epsilon_uniform + config.epsilon_supervised:
        return "supervised", scored.supervised
    return "best", favourite


def uniform(*key: str) -> float:
    """A number in [0, 1) that depends on the key alone, on every machine and in every release."""
    digest = blake2b("\0".join(key).encode(), digest_size=8).digest()
    return float((int.from_bytes(digest, "big") >> 11) * 2.0**-53)
