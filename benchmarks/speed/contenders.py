"""Ours and the peers as the same three calls, over the same model: λ = 1, no prior, α = 0.2."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from policies import Context, PolicyConfig
from policies.beliefs import believe
from policies.checks import Array, Rows
from policies.evidence import ArmStatistics
from policies.linucb import LinUCB
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior, SupervisedStatistics
from policies.request import Beliefs

ALPHA = 0.2
DISCOUNT = 0.998
HISTORY = 4  # rewards an arm before the measurement


class Data(NamedTuple):
    """Contexts X [n,d] of unit length and the arm and reward of each: what every contender has seen."""

    X: Array
    arms: Rows
    rewards: Array


def data(arms: int, d: int, n: int, seed: int = 0) -> Data:
    """Rewards that depend linearly on x, noise aside."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    theta = rng.normal(size=(arms, d))
    pulled = np.arange(n) % arms
    rewards = np.clip(0.5 + np.einsum("nd,nd->n", X, theta[pulled]) / 2, 0, 1)
    return Data(X, pulled, rewards)


def config(**changes: Any) -> PolicyConfig:
    """LinUCB alone: nothing is explored but by widths."""
    return PolicyConfig(alpha=ALPHA, burn_in=0, **changes)


def ours(arms: int, d: int, seen: Data, discount: float = 1.0) -> LinUCB:
    """The policy after it learned what was seen, one reward at a time."""
    learning = LearningConfig(discount=discount, new_arm_weight=0.0, new_arm_mean=0.0)
    nothing = SupervisedStatistics((), 1, np.eye(d), *(np.zeros((0, d, d)),) * 2, *(np.zeros((0, d)),) * 2)
    posterior = Posterior(Prior(nothing, learning))
    for k in range(arms):
        posterior.put(str(k), ArmStatistics.empty(d, discount))
    policy = LinUCB(posterior, config())
    for x, arm, reward in zip(seen.X, seen.arms, seen.rewards, strict=True):
        policy.partial_fit(x, str(arm), float(reward))
    return policy


def paretobandit(arms: int, d: int, seen: Data, discount: float = 1.0) -> Any:
    """ParetoBandit's policy after the same."""
    from pareto_bandit.policy import DisjointLinUCBPolicy

    names = [str(k) for k in range(arms)]
    policy = DisjointLinUCBPolicy(names, dim=d, alpha=ALPHA, init_lambda=1.0, forgetting_factor=discount, seed=0)
    for x, arm, reward in zip(seen.X, seen.arms, seen.rewards, strict=True):
        policy.update(str(arm), x, float(reward))
    return policy


def mabwiser(arms: int, seen: Data) -> Any:
    """MABWiser after the same, fitted at once: one at a time would take minutes."""
    from mabwiser.mab import MAB, LearningPolicy

    policy = MAB([str(k) for k in range(arms)], LearningPolicy.LinUCB(alpha=ALPHA, l2_lambda=1.0), seed=0)
    policy.fit([str(arm) for arm in seen.arms], seen.rewards, seen.X)
    return policy


def decide(policy: LinUCB) -> Callable[[Array], object]:
    """The whole decision that a Router asks for: checks, beliefs, mixing, propensity, reasons."""
    arms = policy.posterior.arms
    return lambda x: policy.decide(Context(x, {}), eligible=arms, costs={}, seed="s")


def believed(policy: LinUCB, X: Array) -> Beliefs:
    """What the policy's posterior says of all arms at X [n,d]."""
    rows = policy.posterior.rows(policy.posterior.arms)
    return believe(policy.posterior, X, rows, np.zeros(len(rows)), policy.config)


def from_scratch(policy: LinUCB, X: Array) -> Rows:
    """The best arms [n] at X [n,d], from a fresh solve of every arm's V and b."""
    scores = []
    for arm in policy.posterior.arms:
        V, b = policy.posterior.prior.with_evidence(arm, policy.posterior.statistics(arm))
        widths = np.sqrt(np.einsum("nd,dn->n", X, np.linalg.solve(V, X.T)))
        scores.append(X @ np.linalg.solve(V, b) + policy.config.alpha * widths)
    best: Rows = np.argmax(scores, axis=0)
    return best
