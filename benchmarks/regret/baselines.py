"""Ways of choosing that are no library's: the MLP, neighbours, one arm for all."""

from collections.abc import Sequence

import numpy as np

from benchmarks.regret.simulation import Decided, Learner, Reward, Run
from benchmarks.regret.trial import Steps, Trial
from policies.checks import Array


class Neighbours(Learner):
    """kNN: an arm's mean reward at the k nearest contexts at which it was tried; ε-greedy.

    A labelled example counts as reward 1 of its arm and 0 of the other labelled ones. One more neighbour with the
    reward ½ stands behind every arm, so that one that nobody knows is neither good nor bad.
    """

    def __init__(self, trial: Trial, k: int, epsilon: float) -> None:
        self._trial = trial
        self._k, self._epsilon = k, epsilon
        self._rng = np.random.default_rng(trial.seed)
        examples = trial.labelled
        self._X = np.concatenate([examples.X, trial.X])  # row m + i is the request of step i
        self._squares = np.einsum("id,id->i", self._X, self._X)
        self._rewards = np.full((len(self._X), len(trial.arms)), np.nan)
        for arm in np.unique(examples.labels).tolist():
            self._rewards[: len(examples.X), arm] = examples.labels == arm
        self._here = np.zeros(len(trial.arms), dtype=np.bool_)

    def arrive(self, arm: int) -> None:
        self._here[arm] = True

    def decide(self, step: int) -> Decided:
        means = np.where(self._here, self._means(step), -np.inf)
        best = int(np.argmax(means))
        explores = self._rng.random() < self._epsilon
        return Decided(int(self._rng.choice(np.flatnonzero(self._here))) if explores else best, best)

    def learn(self, rewards: Sequence[Reward]) -> None:
        for reward in rewards:
            self._rewards[len(self._trial.labelled.X) + reward.step, reward.arm] = reward.value

    def _means(self, step: int) -> Array:
        seen = len(self._trial.labelled.X) + step
        values = self._rewards[:seen]
        nearness = self._X[:seen] @ (2 * self._trial.X[step]) - self._squares[:seen]
        ranked = np.where(np.isnan(values), -np.inf, nearness[:, np.newaxis])
        rows = np.argpartition(-ranked, min(self._k, seen - 1), axis=0)[: self._k]
        found = np.take_along_axis(values, rows, axis=0)
        means: Array = (np.nansum(found, axis=0) + 0.5) / ((~np.isnan(found)).sum(axis=0) + 1)
        return means


def supervised(trial: Trial) -> Run:
    """The MLP's choice at every request."""
    positions = np.array([trial.arms.index(arm) for arm in trial.mlp_arms])
    return _always(trial, positions[trial.G.argmax(axis=1)])


def best_single(trial: Trial) -> Run:
    """The arm that earns most over the trial, in hindsight, among those that are there from the start."""
    return _always(trial, np.full(trial.n, np.where(trial.arrives == 0, trial.success.mean(axis=0), -1.0).argmax()))


def _always(trial: Trial, choices: Steps) -> Run:
    earned = trial.success[np.arange(trial.n), choices]
    return Run(earned, earned)
