"""A router that lives for a while: rewards come late and out of order, a new arm arrives, an adapter gets worse."""

from collections.abc import Callable

import numpy as np

from policies import Policy, PolicyConfig, create
from policies.base import Array, Context
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig
from tests.policies.worlds import ARMS, DIMENSION, contexts, posterior

Reward = Callable[[str, str], float]


def live(belief: Posterior, policy: Policy, rounds: int, reward: Reward, seed: int) -> list[tuple[str, str]]:
    """Serve `rounds` requests; each reward arrives up to 30 rounds later. Returns (family, arm) per request."""
    rng = np.random.default_rng(seed)
    statistics = {arm: belief.statistics(arm) for arm in belief.arms}
    X, families = contexts(rounds, seed)
    waiting: list[tuple[int, str, Array, int, float]] = []
    served = []
    for now, (x, family) in enumerate(zip(X, families, strict=True)):
        for item in [item for item in waiting if item[0] <= now]:
            waiting.remove(item)
            _, arm, context, tick, value = item
            statistics[arm].mature(context, tick, value, 1.0, float(now), was_pending=True)
            belief.put(arm, statistics[arm])
        gates = {arm: float(arm == family) for arm in ARMS}
        choice = policy.decide(Context(x, gates), eligible=belief.arms, costs={}, seed=f"{seed}.{now}")
        tick = statistics[choice.arm].pull(x, float(now))
        belief.overlay(choice.arm, x)
        value = float(rng.random() < reward(family, choice.arm))
        waiting.append((now + int(rng.integers(1, 31)), choice.arm, x, tick, value))
        served.append((family, choice.arm))
    return served


def share(served: list[tuple[str, str]], family: str, arm: str) -> float:
    arms = [chosen for seen, chosen in served if seen == family]
    return arms.count(arm) / len(arms)


def test_a_new_arm_is_explored_and_learned_where_it_is_better() -> None:
    def reward(family: str, arm: str) -> float:
        if arm == "new":
            return 0.95 if family == "inbox" else 0.05
        return (0.5 if arm == "inbox" else 0.9) if arm == family else 0.1

    belief = posterior("new", config=LearningConfig(prior_weight=50.0))
    served = live(belief, create("linucb", belief, PolicyConfig()), 1_500, reward, seed=1)
    late = served[-400:]
    assert share(late, "inbox", "new") > 0.75
    assert share(late, "calendar", "calendar") > 0.8
    assert share(late, "claims", "claims") > 0.8


def test_a_worse_new_arm_costs_little() -> None:
    def reward(family: str, arm: str) -> float:
        return 0.9 if arm == family else 0.1

    belief = posterior("new")
    served = live(belief, create("linucb", belief, PolicyConfig(alpha=0.5, epsilon_uniform=0.05)), 800, reward, seed=2)
    assert sum(family == arm for family, arm in served[-300:]) / 300 > 0.88
    assert belief.statistics("new").pulls >= 20


def test_an_adapter_that_stopped_working_is_left() -> None:
    def reward(family: str, arm: str) -> float:
        if family == "calendar":
            return {"calendar": 0.02, "inbox": 0.7}.get(arm, 0.1)
        return 0.9 if arm == family else 0.1

    belief = posterior(config=LearningConfig(prior_weight=50.0, discount=0.995))
    served = live(belief, create("linucb", belief, PolicyConfig()), 1_500, reward, seed=3)
    assert share(served[:60], "calendar", "calendar") > 0.5
    assert share(served[-400:], "calendar", "inbox") > 0.7


def test_a_burst_without_rewards_does_not_explore_as_a_herd() -> None:
    """Pending decisions narrow the width of the arm that is pulled, so a burst spreads over equal arms."""
    twins = ("twin1", "twin2")
    belief = posterior(*twins)
    policy = create("linucb", belief, PolicyConfig(alpha=2.0, epsilon_supervised=0.0, epsilon_uniform=0.0))
    x = np.eye(DIMENSION)[0] + np.eye(DIMENSION)[5]
    pulls = dict.fromkeys(twins, 0)
    for i in range(20):
        choice = policy.decide(Context(x, {}), eligible=twins, costs={}, seed=str(i))
        pulls[choice.arm] += 1
        belief.overlay(choice.arm, x)
    assert pulls == {"twin1": 10, "twin2": 10}


def test_a_router_that_replays_the_bytes_believes_the_same() -> None:
    belief = posterior("new")
    live(belief, create("linucb", belief, PolicyConfig()), 100, lambda family, arm: float(family == arm), seed=4)
    copy = Posterior(belief.prior)
    for arm in belief.arms:
        belief.put(arm, belief.statistics(arm))
        copy.put(arm, ArmStatistics.from_bytes(belief.statistics(arm).to_bytes()))
    X, _ = contexts(20, seed=8)
    assert np.array_equal(copy.means(X), belief.means(X))
    assert np.array_equal(copy.widths(X), belief.widths(X))
