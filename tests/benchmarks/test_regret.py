"""The worlds are the same for every learner, say what their names say, and a seed gives the same figures again."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.regret.baselines import Neighbours, best_single, supervised
from benchmarks.regret.ours import Ours
from benchmarks.regret.scenarios import SCENARIOS
from benchmarks.regret.simulation import Decided, Learner, Reward, Run, simulate
from benchmarks.regret.trial import Trial
from policies import PolicyConfig
from policies.prior import LearningConfig

STEPS = 150


def world(name: str, seed: int = 7, steps: int = STEPS) -> Trial:
    return SCENARIOS[name](seed, steps)


def ours(trial: Trial, policy: str = "linucb", key_cap: float = 0.0) -> Run:
    return simulate(trial, Ours(trial, policy, LearningConfig(), PolicyConfig(), key_cap))


class Scribe(Learner):
    """Takes the first arm, and writes down what it is told."""

    def __init__(self) -> None:
        self.decided = 0
        self.learned: list[tuple[int, Reward]] = []
        self.told: list[tuple[str, int, int]] = []

    def decide(self, step: int) -> Decided:
        self.decided = step + 1
        return Decided(0, 0)

    def learn(self, rewards: Sequence[Reward]) -> None:
        self.learned += [(self.decided, reward) for reward in rewards]

    def arrive(self, arm: int) -> None:
        self.told.append(("arrives", arm, self.decided))

    def release(self, arm: int) -> None:
        self.told.append(("release", arm, self.decided))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_seed_gives_the_same_world_and_the_same_run_again(name: str) -> None:
    first, second = world(name), world(name)
    assert np.array_equal(first.X, second.X)
    assert np.array_equal(first.observed, second.observed)
    once, again = ours(first), ours(second)
    assert np.array_equal(once.taken, again.taken)
    assert np.array_equal(once.greedy, again.greedy)
    assert not np.array_equal(world(name, seed=8).success, first.success)


@pytest.mark.parametrize("policy", ["lints", "greedy"])
def test_every_exploration_lives_through_an_episode_world(policy: str) -> None:
    assert 0.3 < ours(world("h episodes"), policy).greedy.mean() <= 1


def test_rewards_come_after_the_stated_number_of_decisions() -> None:
    scribe = Scribe()
    simulate(world("d delay 50"), scribe)
    assert [told - reward.step for told, reward in scribe.learned] == [51] * (STEPS - 50)


def test_an_episode_posts_one_reward_for_its_ten_steps() -> None:
    trial, scribe = world("h episodes", steps=STEPS + 30), Scribe()
    simulate(trial, scribe)
    first = [reward for _, reward in scribe.learned[:10]]
    assert {reward.value for reward in first} == {trial.success[:10, 0].mean()}
    assert sum(reward.weight for reward in first) == pytest.approx(1)
    assert len({trial.family[step] for step in range(10)}) == 1


def test_an_arm_breaks_half_way_and_is_repaired_by_a_new_version() -> None:
    told, silent = world("c drift told"), world("c drift silent")
    (bad, repaired), (broken,) = told.changes, told.releases[told.changes[1]]
    assert told.releases == {bad: (broken,), repaired: (broken,)}
    assert silent.releases == {repaired: (broken,)}
    assert told.success[bad:repaired, broken].sum() == 0 < told.success[repaired:, broken].sum()
    scribe = Scribe()
    simulate(told, scribe)
    assert [event for event in scribe.told if event[0] == "release"] == [
        ("release", broken, bad),
        ("release", broken, repaired),
    ]


def test_new_arms_arrive_one_after_the_other_and_the_oracle_waits_for_them() -> None:
    trial, scribe = world("e new arms"), Scribe()
    simulate(trial, scribe)
    late = [(arm, step) for what, arm, step in scribe.told if what == "arrives" and step]
    assert [step for _, step in late] == list(trial.changes)
    before = trial.oracle[: trial.changes[0]]
    assert before.mean() < trial.oracle[trial.changes[-1] :].mean()


@pytest.mark.parametrize(("name", "low", "high"), [("f flipped", 0.05, 0.16), ("g nonsense", 0.02, 0.09)])
def test_wrong_rewards_are_a_small_share(name: str, low: float, high: float) -> None:
    trial = world(name, steps=1000)
    assert low < np.mean(trial.observed != trial.success) < high


def test_nonsense_is_one_clients_every_word() -> None:
    trial = world("g nonsense")
    wrong = (trial.observed != trial.success).all(axis=1)
    assert np.array_equal(wrong, trial.source == 0)


def test_one_client_may_be_kept_from_teaching_more_than_its_cap() -> None:
    alone = replace(world("g nonsense", steps=400), source=np.zeros(400, dtype=np.int64))
    lying = replace(alone, observed=1 - alone.observed)
    assert not np.array_equal(ours(alone).greedy, ours(lying).greedy)
    assert np.array_equal(ours(alone, key_cap=1e-6).greedy, ours(lying, key_cap=1e-6).greedy)


def test_nobody_learns_from_what_it_does_not_see() -> None:
    """Success and oracle are for the books: changing them changes no choice."""
    trial = world("a table")
    hidden = replace(trial, success=1 - trial.success, oracle=1 - trial.oracle)
    assert np.array_equal(ours(trial).taken, 1 - ours(hidden).taken)


def test_neighbours_find_what_the_mlp_cannot() -> None:
    trial = world("a table", steps=1200)
    neighbours = simulate(trial, Neighbours(trial, 5, 0.05))
    newer = ~trial.known & (np.arange(trial.n) >= trial.n // 2)
    assert neighbours.greedy[newer].mean() > supervised(trial).greedy[newer].mean() + 0.1
    assert supervised(trial).greedy[trial.known].mean() > 0.85
    assert best_single(trial).greedy.mean() == trial.success.mean(axis=0).max()


def test_ours_learns_what_the_mlp_does_not_know() -> None:
    trial = world("d delay 0", steps=600)
    late = slice(300, None)
    assert ours(trial).greedy[late].mean() > supervised(trial).greedy[late].mean() + 0.05
    assert ours(trial).greedy[late].mean() > trial.oracle[late].mean() - 0.05
