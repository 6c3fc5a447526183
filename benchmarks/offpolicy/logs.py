"""Logs of the embedded world: episodes drawn from the outcome table, arms drawn by the service's own policy code."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np

from benchmarks.worlds import World
from policies import Context, PolicyConfig, create
from policies.checks import Array, Rows
from policies.evaluation import Log
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior

Logging = Literal["fixed", "adaptive", "certain"]

_BLOCK: Final = 100  # decisions that an adaptive log takes on one posterior
_OUTCOMES: Final = 150  # episodes an arm that the trained candidate has learned from


_LEARNING: Final = LearningConfig()
_EXPLORING: Final = PolicyConfig(burn_in=10**9)
_CERTAIN: Final = PolicyConfig(burn_in=0, epsilon_supervised=0.0, epsilon_uniform=0.0)


@dataclass(frozen=True, eq=False)
class Logger:
    """Draws logs of a world in which newer arms never leave the explored ones, so that every choice has a chance."""

    world: World
    learning: LearningConfig = _LEARNING
    exploring: PolicyConfig = _EXPLORING
    certain: PolicyConfig = _CERTAIN

    @property
    def supervised(self) -> Rows:
        """[n]: the arm with the largest gate."""
        arms, gates = self.world.arms, self.world.mapped[1]
        named: Rows = np.array([arms.index(arm) for arm in self.world.contexts.arms])[gates.argmax(1)]
        return named

    def candidates(self, rng: np.random.Generator) -> dict[str, Array]:
        """Policies [n,K] to be evaluated: the supervised router, and one that has learned what the newer arms can do.

        It chooses between the supervised arm and the newer ones by outcomes that no log holds; so every choice of it
        has a chance in every log.
        """
        X, R = self.world.mapped[0], self.world.R
        trained = self.posterior()
        for arm, name in enumerate(self.world.arms):
            rows = rng.integers(0, len(X), _OUTCOMES)
            statistics = ArmStatistics.empty(X.shape[1], self.learning.discount)
            _learn(statistics, X[rows], R[rows, arm])
            trained.put(name, statistics)
        one = np.eye(len(self.world.arms))
        newer = np.array([not trained.prior.knows(arm) for arm in self.world.arms])
        means = np.where(newer | (one[self.supervised] > 0), trained.means(X), -np.inf)
        return {"supervised": one[self.supervised], "trained": one[means.argmax(1)]}

    def truth(self, target: Array) -> float:
        """What a policy earns, over all episodes of the table."""
        return float((self.world.R * target).sum(1).mean())

    def draw(self, logging: Logging, n: int, rng: np.random.Generator) -> tuple[Log, Rows]:
        """A log of n decisions, and the episode [n] of each."""
        posterior, config = self.posterior(), self.certain if logging == "certain" else self.exploring
        known = {arm: ArmStatistics.empty(posterior.dimension, self.learning.discount) for arm in self.world.arms}
        block = _BLOCK if logging == "adaptive" else n
        parts = []
        for _ in range(0, n, block):
            rows = rng.integers(0, len(self.world.H), block)
            action, propensity = self._choose(posterior, config, rows, rng)
            parts.append((rows, action, propensity))
            if logging == "adaptive":
                self._follow(posterior, known, rows, action)
        rows, action, propensity = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        everything = np.ones((len(rows), len(self.world.arms)), dtype=bool)
        reward = self.world.R[rows, action]
        return Log(self.world.mapped[0][rows], everything, action, propensity, np.arange(len(rows)), reward), rows

    def posterior(self) -> Posterior:
        """What is believed before anything was learned."""
        made = Posterior(Prior(self.world.contexts.statistics, self.learning))
        for arm in self.world.arms:
            made.put(arm, ArmStatistics.empty(made.dimension, self.learning.discount))
        return made

    def _choose(
        self, posterior: Posterior, config: PolicyConfig, rows: Rows, rng: np.random.Generator
    ) -> tuple[Rows, Array]:
        different, back = np.unique(rows, return_inverse=True)
        p = self._probabilities(posterior, config, different)[back]
        action = (rng.random((len(rows), 1)) >= p.cumsum(1)[:, :-1]).sum(1)
        return action, p[np.arange(len(rows)), action]

    def _probabilities(self, posterior: Posterior, config: PolicyConfig, rows: Rows) -> Array:
        """p(a|x) [rows,K] of LinUCB, by the code that the service decides with."""
        contexts = [self._contexts[row] for row in rows.tolist()]
        policy = create("linucb", posterior, config)
        return policy.distribution(contexts, eligible=self.world.arms, costs={})

    @cached_property
    def _contexts(self) -> list[Context]:
        X, gates = self.world.mapped
        named = (dict(zip(self.world.contexts.arms, row, strict=True)) for row in gates.tolist())
        return [Context(x, gate) for x, gate in zip(X, named, strict=True)]

    def _follow(self, posterior: Posterior, known: Mapping[str, ArmStatistics], rows: Rows, action: Rows) -> None:
        """Learn from a block: its rewards come at its end."""
        for arm in np.unique(action).tolist():
            name, own = self.world.arms[arm], rows[action == arm]
            _learn(known[name], self.world.mapped[0][own], self.world.R[own, arm])
            posterior.put(name, known[name])


def _learn(statistics: ArmStatistics, X: Array, reward: Array) -> None:
    ticks = [statistics.pull(x, 0.0) for x in X]
    for x, tick, value in zip(X, ticks, reward.tolist(), strict=True):
        statistics.mature(x, tick, value, 1.0, 0.0, was_pending=True)
