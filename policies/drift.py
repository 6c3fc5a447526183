"""Whether an arm still earns what is believed: a two-sided CUSUM (Page 1954) over standardised residuals.

Everything here is part of an arm's state and of the fold, so the same stream gives the same alarms and the same κ.
"""

from typing import NamedTuple


class Run(NamedTuple):
    """One side of the test since its sum was last zero, which is where a change would have begun.

    total: Σ w(±z − slack), never below 0.  residual, prior_residual: Σ w(r−m) and Σ w(r−m₀), against the belief's mean
    m and the prior's own mean m₀.
    """

    total: float = 0.0
    residual: float = 0.0
    prior_residual: float = 0.0

    def step(self, excess: float, residual: float, prior_residual: float) -> "Run":
        """One residual further; a sum that falls to zero forgets."""
        total = self.total + excess
        if total <= 0:
            return Run()
        return Run(total, self.residual + residual, self.prior_residual + prior_residual)

    @property
    def prior_explains(self) -> bool:
        """Whether the prior's mean leaves less than half of what the belief did not foresee."""
        return abs(self.prior_residual) < abs(self.residual) / 2


class Watch(NamedTuple):
    """Both sides of the test: does the arm earn more, does it earn less?"""

    better: Run = Run()
    worse: Run = Run()

    def step(self, z: float, residual: float, prior_residual: float, weight: float, slack: float) -> "Watch":
        """Take in one reward of the given weight, whose residual is z standard deviations."""
        parts = (weight * residual, weight * prior_residual)
        return Watch(
            self.better.step(weight * (z - slack), *parts),
            self.worse.step(weight * (-z - slack), *parts),
        )


class Alarm(NamedTuple):
    """A change was found at the reward of the decision `tick`, event time `time`; κ is `kappa` from then on.

    `worse`: the arm earned less than was believed.  `restored`: the prior explains the arm again.
    """

    tick: int
    time: float
    worse: bool
    restored: bool
    kappa: float
