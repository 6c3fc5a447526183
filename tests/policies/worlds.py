"""Small synthetic worlds that the tests share: contexts of three families, one arm right for each."""

import numpy as np

from policies.base import Array, Context
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior, supervised_statistics

ARMS = ("calendar", "claims", "inbox")
DIMENSION = 8


def contexts(n: int, seed: int) -> tuple[Array, list[str]]:
    """X [n,8] with x[0] = 1 and the arm that is right for each; families are clusters along x[1..3]."""
    rng = np.random.default_rng(seed)
    families = rng.integers(len(ARMS), size=n)
    X = 0.2 * rng.normal(size=(n, DIMENSION))
    X[:, 0] = 1.0
    X[np.arange(n), 1 + families] += 1.0
    return X, [ARMS[family] for family in families]


def prior(config: LearningConfig | None = None, n: int = 300, seed: int = 0) -> Prior:
    X, labels = contexts(n, seed)
    return Prior(supervised_statistics(X, labels, ARMS), config or LearningConfig())


def posterior(*extra: str, config: LearningConfig | None = None) -> Posterior:
    """Cold beliefs about the three arms, and about `extra` ones that no label names."""
    belief = Posterior(prior(config))
    for arm in (*ARMS, *extra):
        belief.put(arm, ArmStatistics.empty(DIMENSION, belief.prior.config.discount))
    return belief


def context(family: int = 0, gates: dict[str, float] | None = None) -> Context:
    x = np.zeros(DIMENSION)
    x[0] = x[1 + family] = 1.0
    return Context(x, gates if gates is not None else {"calendar": 0.2, "claims": 0.7, "inbox": 0.1})
