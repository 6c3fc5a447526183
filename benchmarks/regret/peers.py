"""Two libraries' LinUCB, through their own classes, starting from the same prior as Pointsman's."""

from collections.abc import Sequence

import numpy as np
from mabwiser.mab import MAB, LearningPolicy
from pareto_bandit.policy import DisjointLinUCBPolicy

from benchmarks.regret.simulation import Decided, Learner, Reward
from benchmarks.regret.trial import Trial
from policies.prior import LearningConfig, Prior


class ParetoBandit(Learner):
    """`DisjointLinUCBPolicy`, its A and b set to the prior's; λ is in there. γ decays per request, as it defines it."""

    def __init__(self, trial: Trial, alpha: float, learning: LearningConfig) -> None:
        self._trial = trial
        self._prior = Prior(trial.prior, learning)
        self._bandit = DisjointLinUCBPolicy(
            [],
            dim=trial.X.shape[1],
            alpha=alpha,
            init_lambda=learning.ridge,
            forgetting_factor=learning.discount,
            seed=trial.seed,
        )

    def arrive(self, arm: int) -> None:
        name = self._trial.arms[arm]
        self._bandit.add_arm(name)
        self._bandit.A[name], self._bandit.b[name] = self._prior.of(name)
        self._bandit.refresh_inverse_cache()

    def decide(self, step: int) -> Decided:
        x, bandit = self._trial.X[step], self._bandit
        name, _ = bandit.select_arm(x)
        bandit.mark_selected(name)
        means = {arm: bandit.get_expected_reward(arm, x) for arm in bandit.models}
        best = max(means, key=lambda arm: means[arm])
        return Decided(self._trial.arms.index(name), self._trial.arms.index(best))

    def learn(self, rewards: Sequence[Reward]) -> None:
        for reward in rewards:
            arm, x = self._trial.arms[reward.arm], self._trial.X[reward.step]
            self._bandit.update(arm, x, reward.value, weight=reward.weight, advance_time=False)


class MABWiser(Learner):
    """`LearningPolicy.LinUCB` with A and Xᵀy set to the prior's. It neither forgets nor weighs."""

    def __init__(self, trial: Trial, alpha: float, learning: LearningConfig) -> None:
        self._trial = trial
        self._prior = Prior(trial.prior, learning)
        policy = LearningPolicy.LinUCB(alpha=alpha, l2_lambda=learning.ridge)
        self._mab = MAB(list(np.flatnonzero(trial.arrives == 0).tolist()), policy, seed=trial.seed)
        self._mab.partial_fit([0], [0.0], np.zeros((1, trial.X.shape[1])))  # a row of zeros only sets the width

    def arrive(self, arm: int) -> None:
        if arm not in self._mab.arms:
            self._mab.add_arm(arm)
        model = self._mab._imp.arm_to_model[arm]
        model.A, model.Xty = self._prior.of(self._trial.arms[arm])
        model.A_inv = np.linalg.inv(model.A)
        model.beta = model.A_inv @ model.Xty

    def decide(self, step: int) -> Decided:
        """As `predict` and its expectations, without the copies that the façade makes of arms and contexts."""
        x, models = self._trial.X[step : step + 1], self._mab._imp.arm_to_model
        scores = {arm: float(model.predict(x)[0]) for arm, model in models.items()}
        means = {arm: float(x[0] @ model.beta) for arm, model in models.items()}
        return Decided(max(scores, key=scores.__getitem__), max(means, key=means.__getitem__))

    def learn(self, rewards: Sequence[Reward]) -> None:
        """As `partial_fit`, which goes through the arms that have nothing to learn as well."""
        for arm in {reward.arm for reward in rewards}:
            mine = [reward for reward in rewards if reward.arm == arm]
            X = self._trial.X[[reward.step for reward in mine]]
            self._mab._imp._fit_arm(arm, np.full(len(mine), arm), np.array([reward.value for reward in mine]), X)
