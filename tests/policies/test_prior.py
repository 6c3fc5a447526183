import numpy as np
import pytest

from policies.prior import LearningConfig, Prior, supervised_statistics
from tests.policies.worlds import ARMS, DIMENSION, contexts, prior

CONFIG = LearningConfig(ridge=0.5, prior_weight=30.0, prior_wrong=0.2)


def test_the_prior_is_the_weighted_sum_over_the_labelled_set() -> None:
    X, labels = contexts(60, seed=1)
    outcomes = np.full((60, 3), np.nan)
    outcomes[:, 0] = np.linspace(0, 1, 60)
    outcomes[::2, 1] = 0.25
    V0, b0 = np.zeros((3, DIMENSION, DIMENSION)), np.zeros((3, DIMENSION))
    for i, x in enumerate(X):
        for k, arm in enumerate(ARMS):
            right = labels[i] == arm
            reward = outcomes[i, k] if not np.isnan(outcomes[i, k]) else float(right)
            weight = 30.0 / 60 * (1.0 if right else 0.2)
            V0[k] += weight * np.outer(x, x)
            b0[k] += weight * reward * x
    found = Prior(supervised_statistics(X, labels, ARMS, outcomes), CONFIG)
    for k, arm in enumerate(ARMS):
        assert found.of(arm)[0] == pytest.approx(V0[k] + 0.5 * np.eye(DIMENSION), rel=1e-9, abs=1e-12)
        assert found.of(arm)[1] == pytest.approx(b0[k], rel=1e-9, abs=1e-12)


def test_an_arm_without_labels_counts_its_measured_examples_fully() -> None:
    X, labels = contexts(60, seed=1)
    outcomes = np.full((60, 4), np.nan)
    outcomes[:20, 3] = 0.3
    V0, b0 = Prior(supervised_statistics(X, labels, (*ARMS, "base"), outcomes), CONFIG).of("base")
    assert pytest.approx(0.5 * np.eye(DIMENSION) + 0.5 * X[:20].T @ X[:20]) == V0
    assert b0 == pytest.approx(0.5 * 0.3 * X[:20].sum(axis=0))


def test_a_new_arm_is_expected_to_earn_the_same_everywhere() -> None:
    known = prior(LearningConfig(new_arm_mean=0.4, new_arm_weight=3.0, ridge=0.5))
    V0, b0 = known.of("new")
    X, _ = contexts(50, seed=5)
    assert X @ np.linalg.solve(V0, b0) == pytest.approx(0.4)
    assert pytest.approx(0.5 * np.eye(DIMENSION) + 3.0 * known.statistics.moment) == V0
    assert (known.knows("calendar"), known.knows("new")) == (True, False)
