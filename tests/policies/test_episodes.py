"""Episodes: one coin, a margin for switching, and propensities that are exact given the steps so far."""

from collections import Counter, defaultdict
from math import prod

import numpy as np
import pytest

from policies import Choice, Policy, PolicyConfig, create
from policies.episodes import Course
from tests.policies.worlds import ARMS, context, posterior

ELIGIBLE = (*ARMS, "new")
CONFIG = PolicyConfig(alpha=3.0, epsilon_supervised=0.2, epsilon_uniform=0.4)
FAMILIES = (0, 2, 1, 0)  # what each step of the test's episodes is about
EPISODES = 3_000


def walk(
    policy: Policy, seed: str, families: tuple[int, ...] = FAMILIES, eligible: tuple[str, ...] = ELIGIBLE
) -> list[Choice]:
    """The choices of one episode."""
    choices: list[Choice] = []
    course: Course | None = None
    for family in families:
        gates = {"calendar": 0.1 + 0.3 * (family == 0), "claims": 0.35, "inbox": 0.1 + 0.3 * (family == 2)}
        choice = policy.decide(context(family, gates), eligible=eligible, costs={}, seed=seed, course=course)
        choices.append(choice)
        course = choice.course
    return choices


@pytest.fixture(scope="module", params=["linucb", "lints", "mlp"])
def episodes(request: pytest.FixtureRequest) -> list[list[Choice]]:
    policy = create(request.param, posterior("new"), CONFIG)
    return [walk(policy, f"episode-{i}") for i in range(EPISODES)]


def test_propensities_sum_to_one_over_the_arms_at_every_step(episodes: list[list[Choice]]) -> None:
    """Of every history: the arms that ever came next, each with the one propensity that it has there."""
    following: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for choices in episodes:
        arms = tuple(choice.arm for choice in choices)
        for t, choice in enumerate(choices):
            known = following[arms[:t]].setdefault(choice.arm, choice.propensity)
            assert choice.propensity == pytest.approx(known, abs=1e-12)
    for history, propensities in following.items():
        assert sum(propensities.values()) == pytest.approx(1.0, abs=1e-9), (history, propensities)


def test_the_propensity_of_a_trajectory_is_the_product_and_what_it_occurs_with(episodes: list[list[Choice]]) -> None:
    counts = Counter(tuple(choice.arm for choice in choices) for choices in episodes)
    by_trajectory = {tuple(choice.arm for choice in choices): choices for choices in episodes}
    for trajectory, choices in by_trajectory.items():
        p = prod(choice.propensity for choice in choices)
        assert choices[-1].course.propensity == pytest.approx(p, abs=1e-12)
        assert counts[trajectory] / EPISODES == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / EPISODES) + 1e-12)


def test_one_coin_disturbs_as_many_episodes_as_it_would_single_decisions() -> None:
    policy = create("linucb", posterior("new"), PolicyConfig(epsilon_supervised=0.0, epsilon_uniform=0.1))
    walks = [walk(policy, f"e{i}", families=(0,) * 10) for i in range(2_000)]
    disturbed = sum(any(choice.explored for choice in choices) for choices in walks)
    assert disturbed / 2_000 < 0.1
    assert disturbed > 0
    for choices in walks:
        assert len({choice.arm for choice in choices}) == 1


def greedy(margin: float) -> Policy:
    config = PolicyConfig(alpha=0.0, epsilon_supervised=0.0, epsilon_uniform=0.0, episode_margin=margin)
    return create("linucb", posterior(), config)


def test_switching_needs_a_gain_above_the_margin() -> None:
    first, second = walk(greedy(0.0), "e", families=(0, 1), eligible=ARMS)
    assert (first.arm, second.arm) == ("calendar", "claims")
    scores = dict(zip(second.arms, second.scores, strict=True))
    gain = scores["claims"] - scores["calendar"]
    assert gain > 0
    for margin, arm in ((gain - 1e-6, "claims"), (gain + 1e-6, "calendar")):
        second = walk(greedy(margin), "e", families=(0, 1), eligible=ARMS)[1]
        assert (second.arm, second.propensity, second.explored) == (arm, 1.0, False)


def test_steps_without_a_reward_do_not_drive_an_episode_to_other_arms() -> None:
    """They narrow the width of the arm that serves, so that by optimism its twin would be better."""
    twins, belief = ("twin1", "twin2"), posterior("twin1", "twin2")
    policy = create("linucb", belief, PolicyConfig(alpha=2.0, epsilon_supervised=0.0, epsilon_uniform=0.0))
    served, course = [], None
    for _ in range(5):
        choice = policy.decide(context(0, {}), eligible=twins, costs={}, seed="e", course=course)
        belief.overlay(choice.arm, context(0).x)
        served.append(choice.arm)
        course = choice.course
    assert len(set(served)) == 1
    assert policy.decide(context(0, {}), eligible=twins, costs={}, seed="another").arm not in served


def test_an_arm_that_may_not_go_on_is_left() -> None:
    kept = PolicyConfig(epsilon_supervised=0.0, epsilon_uniform=0.99, burn_in=5)
    for policy in (greedy(1e6), create("linucb", posterior("new"), kept)):
        for i in range(50):
            first = policy.decide(context(0), eligible=ARMS, costs={}, seed=str(i))
            rest = tuple(arm for arm in ARMS if arm != first.arm)
            second = policy.decide(context(0), eligible=rest, costs={}, seed=str(i), course=first.course)
            assert second.arm == rest[int(np.argmax(second.scores))]
            back = policy.decide(context(0), eligible=ARMS, costs={}, seed=str(i), course=second.course)
            if first.explored:  # what an episode explores it keeps to, whenever it can
                assert back.arm == first.arm


def test_the_fixed_arm_is_fixed_in_episodes_too() -> None:
    config = PolicyConfig(fixed_arm="inbox", epsilon_supervised=0.0, epsilon_uniform=0.0)
    policy = create("fixed", posterior(), config)
    assert {choice.arm for choice in walk(policy, "e", eligible=ARMS)} == {"inbox"}


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_is_a_number(margin: float) -> None:
    with pytest.raises(ValueError, match="episode_margin"):
        PolicyConfig(episode_margin=margin)
