from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyConfig, create
from policies.mixing import certain, distribution, masses, plausible
from tests.policies.worlds import ARMS, context, posterior

CONFIG = PolicyConfig(alpha=3.0, epsilon_supervised=0.2, epsilon_uniform=0.3)


@given(st.integers(1, 8), st.data())
def test_probabilities_sum_to_one(k: int, data: st.DataObject) -> None:
    best, supervised = data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))
    candidates = np.array(data.draw(st.lists(st.booleans(), min_size=k, max_size=k)))
    candidates[best] = True
    target = certain(np.array([best]), k)[0]
    p = np.array([sum(masses(arm, target, supervised, candidates, CONFIG).values()) for arm in range(k)])
    assert distribution(target[None], np.array([supervised]), candidates[None], CONFIG)[0] == pytest.approx(p)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert p[best] > 0.5 - 1e-12
    assert p[supervised] > 0.2 - 1e-12
    outside = ~candidates & (np.arange(k) != supervised)
    assert np.all(p[outside] == 0.0)


def test_plausible_reaches_the_lower_bound_of_the_best() -> None:
    means, bonuses = np.array([0.9, 0.5, 0.1]), np.array([0.1, 0.3, 0.2])
    assert plausible(means + bonuses, bonuses).tolist() == [True, True, False]


def test_frequencies_match_the_propensities() -> None:
    policy = create("linucb", posterior("new"), CONFIG)
    eligible, n = (*ARMS, "new"), 20_000
    choices = [policy.decide(context(), eligible=eligible, costs={}, seed=f"episode-{i}") for i in range(n)]
    counts = Counter(choice.arm for choice in choices)
    propensity = {choice.arm: choice.propensity for choice in choices}
    assert len(counts) >= 3
    assert sum(propensity.values()) == pytest.approx(1.0, abs=1e-9)
    for arm, p in propensity.items():
        assert counts[arm] / n == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n))
    assert all(
        choice.explored == (choice.scores.max() > dict(zip(choice.arms, choice.scores, strict=True))[choice.arm])
        for choice in choices
    )


def test_supervised_share_goes_to_the_largest_eligible_gate() -> None:
    policy = create("linucb", posterior(), PolicyConfig(alpha=0.0, epsilon_supervised=0.4, epsilon_uniform=0.0))
    choices = [policy.decide(context(0), eligible=ARMS, costs={}, seed=str(i)) for i in range(500)]
    assert {choice.supervised for choice in choices} == {"claims"}
    assert {(choice.arm, round(choice.propensity, 9)) for choice in choices} == {("calendar", 0.6), ("claims", 0.4)}
    narrowed = policy.decide(context(0), eligible=("inbox", "calendar"), costs={}, seed="0")
    assert narrowed.supervised == "calendar"
    stranger = policy.decide(context(0, gates={}), eligible=("inbox", "claims"), costs={}, seed="0")
    assert stranger.supervised == stranger.arm


@pytest.mark.parametrize(("name", "arm"), list(product(["linucb", "mlp"], ARMS)))
def test_one_eligible_arm_is_certain(name: str, arm: str) -> None:
    choice = create(name, posterior(), CONFIG).decide(context(), eligible=[arm], costs={arm: 50.0}, seed="s")
    assert (choice.arm, choice.propensity, choice.explored, choice.supervised) == (arm, 1.0, False, arm)


def test_the_seed_replays_the_choice() -> None:
    for i in range(50):
        first, second = (
            create("linucb", posterior("new"), CONFIG).decide(
                context(), eligible=(*ARMS, "new"), costs={"new": 3.0}, seed=f"e{i}"
            )
            for _ in range(2)
        )
        assert first[:5] + first[9:] == second[:5] + second[9:]
        assert all(np.array_equal(a, b) for a, b in zip(first[5:9], second[5:9], strict=True))


def test_choices_are_the_same_in_every_release() -> None:
    policy = create("linucb", posterior("new"), CONFIG)
    arms = [policy.decide(context(), eligible=(*ARMS, "new"), costs={}, seed=f"e{i}").arm for i in range(12)]
    assert arms == ["claims"] * 2 + ["new"] * 4 + ["claims"] * 2 + ["new"] * 4


def test_an_episode_keeps_its_candidate_while_others_come_and_go() -> None:
    """Burn-in arms are all candidates; taking away one that was not picked changes no pick."""
    config = PolicyConfig(epsilon_uniform=0.9, epsilon_supervised=0.0, burn_in=5)
    newcomers = [f"new{i}" for i in range(6)]
    policy = create("linucb", posterior(*newcomers), config)
    for i in range(100):
        before = policy.decide(context(), eligible=newcomers, costs={}, seed=str(i))
        fewer = [arm for arm in newcomers if arm == before.arm or arm != newcomers[i % 6]]
        after = policy.decide(context(), eligible=fewer, costs={}, seed=str(i))
        assert not before.explored or after.arm == before.arm
