"""A learner lives through a trial: decisions, rewards that come when they come, arms that appear and change."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.regret.trial import Steps, Trial
from policies.checks import Array, Mask


class Reward(NamedTuple):
    """What the client `key` posts for the decision of `step`, as the share `weight` of an observation."""

    step: int
    arm: int
    value: float
    weight: float
    key: str


class Decided(NamedTuple):
    """The arm that serves, and the one that the learner would name if it did not explore."""

    taken: int
    greedy: int


class Run(NamedTuple):
    """Success [n] of the arms that served, and of those that the learner held to be best at that time."""

    taken: Array
    greedy: Array


class Lived(NamedTuple):
    """What [seeds,n] the learners of one world earned by what served, by what they held to be best, and could have."""

    taken: dict[str, Array]
    greedy: dict[str, Array]
    oracle: Array
    known: Mask
    changes: tuple[int, ...]


class Learner(ABC):
    """What is compared. It sees contexts and gates of its trial, and of the outcomes only what `learn` is told."""

    @abstractmethod
    def decide(self, step: int) -> Decided:
        """Choose for the request of a step."""

    @abstractmethod
    def learn(self, rewards: Sequence[Reward]) -> None:
        """Take in the reward of an episode, one item a decision."""

    @abstractmethod
    def arrive(self, arm: int) -> None:
        """An arm appears; those that are there from the start arrive before the first decision."""

    def release(self, arm: int) -> None:  # noqa: B027
        """A new version of an arm is announced; who has no use for that goes on."""


def simulate(trial: Trial, learner: Learner) -> Run:
    """The run of one learner; nothing is random but what the learner draws."""
    taken, greedy = np.zeros(trial.n, dtype=np.int64), np.zeros(trial.n, dtype=np.int64)
    for step in range(trial.n):
        for arm in np.flatnonzero(trial.arrives == step).tolist():
            learner.arrive(arm)
        for arm in trial.releases.get(step, ()):
            learner.release(arm)
        taken[step], greedy[step] = learner.decide(step)
        if step + 1 in trial.due:
            learner.learn(_rewards(trial, taken, *trial.due[step + 1]))
    steps = np.arange(trial.n)
    return Run(trial.success[steps, taken], trial.success[steps, greedy])


def _rewards(trial: Trial, taken: Steps, start: int, end: int) -> list[Reward]:
    steps = range(start, end)
    value = float(np.mean([trial.observed[step, taken[step]] for step in steps]))
    key = str(trial.source[start])
    return [Reward(step, int(taken[step]), value, 1 / (end - start), key) for step in steps]
