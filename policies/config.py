"""Settings of the decision, shared by all policies so that one can be swapped for another."""

from dataclasses import dataclass

from policies import checks


@dataclass(frozen=True)
class PolicyConfig:
    """What a policy goes by besides the posterior.

    alpha: widths added to a mean.  epsilon_*: shares of decisions that follow the supervised arm, or spread over the
    plausible arms.  cost_per_ms: reward that a millisecond of waiting is worth.  burn_in: pulls during which a new arm
    counts as plausible.  fixed_arm: what the policy "fixed" serves.  episode_margin: gain in lasting score above which
    an episode goes on with another arm.  all_widths: arms up to which every width is computed; above it only those of
    the `top_widths` best means and of new arms.  neighbours: examples that "knn" asks.  samples: draws of "lints".
    """

    alpha: float = 0.2
    epsilon_supervised: float = 0.02
    epsilon_uniform: float = 0.03
    cost_per_ms: float = 0.0001
    burn_in: int = 20
    fixed_arm: str = "base"
    episode_margin: float = 0.3
    all_widths: int = 256
    top_widths: int = 32
    neighbours: int = 15
    samples: int = 1000

    def __post_init__(self) -> None:
        for name in ("alpha", "epsilon_supervised", "epsilon_uniform", "cost_per_ms", "burn_in", "episode_margin"):
            checks.number(name, getattr(self, name), 0)
        for name in ("all_widths", "top_widths", "neighbours", "samples"):
            checks.number(name, getattr(self, name), 1)
        total = self.epsilon_supervised + self.epsilon_uniform
        if total >= 1:
            raise ValueError(f"epsilon_supervised + epsilon_uniform is {total}, expected less than 1")
