import numpy as np
import pytest

from policies.evidence import ArmStatistics
from policies.prior import LearningConfig, Prior, supervised_statistics
from tests.policies.worlds import ARMS, DIMENSION, contexts, posterior, prior

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


def test_a_new_arm_is_expected_to_earn_as_the_arms_that_it_is_like() -> None:
    known = prior(LearningConfig(new_arm_weight=3.0))
    X, _ = contexts(50, seed=5)
    V0, b0 = known.of("new", ["claims", "inbox", "unheard of"])
    expected = (X @ known.mean_of("claims") + X @ known.mean_of("inbox")) / 2
    assert X @ np.linalg.solve(V0, b0) == pytest.approx(expected)
    assert np.array_equal(V0, known.of("new")[0])  # it is no surer of it
    assert X @ known.mean_of("new", ["claims"]) == pytest.approx(X @ known.mean_of("claims"))
    assert np.array_equal(known.of("claims", ["inbox"])[1], known.of("claims")[1])


def test_what_it_is_like_moves_the_belief_and_survives_the_bytes() -> None:
    arm = ArmStatistics.empty(DIMENSION, 1.0)
    arm.like = ["inbox"]
    belief = posterior("stranger")
    belief.put("new", ArmStatistics.from_bytes(arm.to_bytes()))
    family = contexts(90, seed=7)[0]
    inbox, stranger, new = belief.means(family, belief.rows(["inbox", "stranger", "new"])).T
    assert new == pytest.approx(inbox)
    assert np.abs(new - stranger).max() > 0.2


def test_the_nearest_arms_are_those_whose_examples_point_the_same_way() -> None:
    known = prior()
    X, labels = contexts(60, seed=3)
    example = X[[label == "claims" for label in labels]].mean(axis=0)
    assert known.nearest(example, 1) == ["claims"]
    assert len(known.nearest(np.ones(DIMENSION), 5)) == 3
    assert known.nearest(-example, 3) == [] or "claims" not in known.nearest(-example, 3)
    with pytest.raises(ValueError, match="example has shape"):
        known.nearest(example[1:], 1)
