"""From settings to what the policies are configured with; they know nothing of settings."""

from cluster.settings import Settings
from policies.base import PolicyConfig
from policies.prior import LearningConfig


def policy_config(settings: Settings) -> PolicyConfig:
    """What policies need of the settings."""
    names = ["alpha", "epsilon_supervised", "epsilon_uniform", "cost_per_ms", "burn_in", "fixed_arm", "episode_margin"]
    names += ["all_widths", "top_widths", "neighbours", "samples"]
    return PolicyConfig(**{name: getattr(settings.router, name) for name in names})


def learning_config(settings: Settings) -> LearningConfig:
    """What the posterior needs of the settings."""
    names = ["discount", "ridge", "prior_weight", "prior_wrong", "new_arm_weight", "new_arm_mean", "version_carry"]
    names += ["credit", "credit_discount"]
    names += ["drift_threshold", "drift_slack", "drift_trust", "drift_carry"]
    return LearningConfig(**{name: getattr(settings.learner, name) for name in names})
