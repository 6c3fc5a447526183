"""Tests every first reward of a decision against the arm's belief, and lets κ and the evidence answer an alarm."""

import numpy as np

from policies.checks import Array
from policies.drift import Alarm, Watch
from policies.evidence import ArmStatistics
from policies.prior import Prior

_NOISE = 0.25  # the largest variance of a reward in [0, 1]: what a belief's width² counts in
_LEAST_VARIANCE = 0.15  # of a reward: a mean near 0 or 1 would make every surprise a drift
_DIGITS = 6  # residuals are rounded, so that another BLAS does not see another alarm


class Detector:
    """Matures rewards and watches their residuals; without a threshold it only matures.

    At an alarm the evidence so far is multiplied by `drift_carry`. κ is multiplied by `drift_trust`, unless the prior's
    own mean leaves less than half of what the belief did not foresee since the change began: then κ is what the
    versions left of it. So an arm that breaks is relearned, and one that is repaired is trusted again as at first.
    Corrections do not run the test again. Decisions taken before the last alarm are not tested: they tell of the past.
    """

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self._config = prior.config

    def mature(
        self,
        arm: str,
        statistics: ArmStatistics,
        x: Array,
        tick: int,
        reward: float,
        weight: float,
        time: float,
        was_pending: bool,
    ) -> Alarm | None:
        """Fold the first reward of a decision as `ArmStatistics.mature` does; the alarm that it raised, if any."""
        tested = self._config.drift_threshold > 0 and statistics.is_current(tick)
        watch = self._step(arm, statistics, x, reward, weight) if tested else statistics.watch
        statistics.mature(x, tick, reward, weight, time, was_pending)
        statistics.watch = watch
        if not tested or max(watch.better.total, watch.worse.total) <= self._config.drift_threshold:
            return None
        return self._answer(statistics, tick, time)

    def _step(self, arm: str, statistics: ArmStatistics, x: Array, reward: float, weight: float) -> Watch:
        V, b = self._prior.with_evidence(arm, statistics)
        theta, Vx = np.linalg.solve(V, np.column_stack([b, x])).T
        mean, width2 = float(theta @ x), max(0.0, float(Vx @ x))
        variance = max(mean * (1 - mean), _LEAST_VARIANCE) + _NOISE * width2
        before = self._prior.mean_of(statistics.label(arm), statistics.like)
        residual = round(reward - mean, _DIGITS)
        prior_residual = round(reward - float(before @ x), _DIGITS)
        z = round(residual / variance**0.5, _DIGITS)
        return statistics.watch.step(z, residual, prior_residual, weight, self._config.drift_slack)

    def _answer(self, statistics: ArmStatistics, tick: int, time: float) -> Alarm:
        watch = statistics.watch
        worse = watch.worse.total > watch.better.total
        restored = (watch.worse if worse else watch.better).prior_explains
        kappa = statistics.standing if restored else statistics.kappa * self._config.drift_trust
        alarm = Alarm(tick, time, worse, restored, kappa)
        statistics.drifted(alarm, self._config.drift_carry)
        return alarm
