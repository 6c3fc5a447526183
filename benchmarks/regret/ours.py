"""Pointsman's own policies, through what the service runs: evidence folded by arm, posterior, decision."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.regret.simulation import Decided, Learner, Reward
from benchmarks.regret.trial import Trial
from policies import PolicyConfig, create
from policies.base import Context
from policies.detector import Detector
from policies.episodes import Course
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior


class _Pull(NamedTuple):
    arm: str
    tick: int


class Ours(Learner):
    """A Learner and a Router in one: every reward is folded, and the posterior takes over the arms it touched."""

    def __init__(
        self, trial: Trial, policy: str, learning: LearningConfig, config: PolicyConfig, key_cap: float = 0.0
    ) -> None:
        self._trial = trial
        self._learning = learning
        self._key_cap = key_cap
        prior = Prior(trial.prior, learning)
        self._posterior = Posterior(prior)
        self._detector = Detector(prior)
        self._policy = create(policy, self._posterior, config)
        self._statistics: dict[str, ArmStatistics] = {}
        self._pulls: dict[int, _Pull] = {}
        self._course: Course | None = None

    def arrive(self, arm: int) -> None:
        name = self._trial.arms[arm]
        self._statistics[name] = ArmStatistics.empty(self._posterior.dimension, self._learning.discount, "first")
        self._posterior.put(name, self._statistics[name])

    def release(self, arm: int) -> None:
        name = self._trial.arms[arm]
        self._statistics[name].new_version("next", self._learning.version_carry)
        self._posterior.put(name, self._statistics[name])

    def decide(self, step: int) -> Decided:
        trial = self._trial
        context = Context(trial.X[step], trial.gates[step])
        seed, course = f"{trial.seed}.{trial.episode[step]}", None if trial.begins(step) else self._course
        eligible = tuple(self._statistics)
        choice = self._policy.decide(context, eligible=eligible, costs={}, seed=seed, course=course)
        self._course = choice.course
        tick = self._statistics[choice.arm].pull(context.x, float(step))
        self._posterior.overlay(choice.arm, context.x)
        self._pulls[step] = _Pull(choice.arm, tick)
        best = choice.arms[int(np.argmax(choice.means))]
        return Decided(trial.arms.index(choice.arm), trial.arms.index(best))

    def learn(self, rewards: Sequence[Reward]) -> None:
        touched = {self._fold(reward) for reward in rewards}
        for arm in sorted(touched):
            self._posterior.put(arm, self._statistics[arm])

    def _fold(self, reward: Reward) -> str:
        arm, tick = self._pulls.pop(reward.step)
        statistics, x, now = self._statistics[arm], self._trial.X[reward.step], float(reward.step)
        voice = statistics.admit(reward.key, tick, reward.weight, self._key_cap) if self._key_cap else 1.0
        if voice:
            self._detector.mature(arm, statistics, x, tick, reward.value, voice * reward.weight, now, was_pending=True)
        else:
            statistics.forget(x, now)
        return arm
