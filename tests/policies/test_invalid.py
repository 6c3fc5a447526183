"""What is refused, and that the refusal names the field and the value."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies import Context, PolicyConfig, create, register
from policies.evidence import ArmStatistics
from policies.linucb import LinUCB
from policies.prior import LearningConfig, supervised_statistics
from policies.projection import Projection
from policies.training.artifact import fit_context_map
from policies.training.classifier import ClassifierConfig, train_classifier
from policies.training.network import RouterMLP
from tests.policies.worlds import ARMS, DIMENSION, context, contexts, posterior

POLICIES = ["fixed", "greedy", "linucb", "lints", "mlp", "retrieval"]
X = np.ones(3)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    ("change", "eligible", "costs", "message"),
    [
        ({}, [], {}, r"eligible is \[\]"),
        ({}, ["inbox", "inbox"], {}, "eligible is .*'inbox', 'inbox'"),
        ({}, ["inbox", "nobody"], {}, "arm is 'nobody'"),
        ({"x": np.full(DIMENSION, np.nan)}, ["inbox"], {}, r"x is nan at \(0,\)"),
        ({"x": np.ones(3)}, ["inbox"], {}, r"x has shape \(3,\), expected \(8,\)"),
        ({}, ["inbox"], {"inbox": np.inf}, "cost of 'inbox' is inf"),
    ],
)
def test_requests(
    name: str, change: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]], eligible: list[str],
    costs: dict[str, float], message: str,
) -> None:  # fmt: skip
    policy = create(name, posterior(), PolicyConfig(fixed_arm="inbox"))
    with pytest.raises(ValueError, match=message):
        policy.decide(Context(change.get("x", context().x), {}), eligible=eligible, costs=costs, seed="s")


def test_policy_names() -> None:
    with pytest.raises(ValueError, match=r"policy is 'best', expected one of \['fixed', 'greedy', 'knn', 'lints'"):
        create("best", posterior(), PolicyConfig())
    with pytest.raises(ValueError, match="policy name is 'linucb'"):
        register(LinUCB)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"epsilon_uniform": -0.1}, "epsilon_uniform is -0.1"),
        ({"epsilon_supervised": 0.5, "epsilon_uniform": 0.5}, r"epsilon_supervised \+ epsilon_uniform is 1.0"),
        ({"cost_per_ms": np.nan}, "cost_per_ms is nan"),
        ({"burn_in": -1}, "burn_in is -1"),
        ({"all_widths": 0}, "all_widths is 0"),
        ({"top_widths": 0}, "top_widths is 0"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_policy_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PolicyConfig(), **change)


@pytest.mark.parametrize(
    "change",
    [{"discount": 0.0}, {"discount": 1.1}, {"ridge": 0.0}, {"prior_weight": -1.0}, {"prior_wrong": 2.0},
     {"new_arm_weight": -1.0}, {"new_arm_mean": np.nan}, {"version_carry": 1.5}, {"drift_threshold": -1.0},
     {"drift_slack": np.inf}, {"drift_trust": 1.1}, {"drift_carry": -0.1}, {"refresh": 0}],
)  # fmt: skip
def test_learning_settings(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        replace(LearningConfig(), **change)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda arm: arm.pull(np.array([1.0, np.inf, 0.0]), 0.0), r"x is inf at \(1,\)"),
        (lambda arm: arm.pull(np.ones(2), 0.0), r"x has shape \(2,\), expected \(3,\)"),
        (lambda arm: arm.pull(X, np.nan), "time is nan"),
        (lambda arm: arm.mature(X, 1, np.nan, 1.0, 0.0, was_pending=True), "reward is nan"),
        (lambda arm: arm.mature(X, 1, 1.0, -1.0, 0.0, was_pending=True), "weight is -1.0"),
        (lambda arm: arm.mature(X, 1, 1.0, 1.0, np.inf, was_pending=True), "time is inf"),
        (lambda arm: arm.mature(X, 2, 1.0, 1.0, 0.0, was_pending=True), "tick is 2, expected 1 to 1"),
        (lambda arm: arm.correct(X, 0, 0.0, 1.0, 1.0, 0.0), "tick is 0"),
        (lambda arm: arm.correct(X, 1, np.nan, 1.0, 1.0, 0.0), "previous is nan"),
        (lambda arm: arm.new_version("hash", 1.5), "carry is 1.5"),
    ],
)
def test_refused_events_change_nothing(act: Callable[[ArmStatistics], object], message: str) -> None:
    arm = ArmStatistics.empty(3, 0.9)
    arm.pull(X, 0.0)
    before = arm.to_bytes()
    with pytest.raises(ValueError, match=message):
        act(arm)
    assert arm.to_bytes() == before


def test_forgetting_more_than_is_pending() -> None:
    arm = ArmStatistics.empty(3, 0.9)
    arm.pull(X, 0.0)
    arm.forget(X, 0.0)
    with pytest.raises(ValueError, match="pending is 0"):
        arm.mature(X, 1, 1.0, 1.0, 0.0, was_pending=True)


@pytest.mark.parametrize("data", [b"", b"no statistics", ArmStatistics.empty(3, 0.9).to_bytes()[:-8]])
def test_unreadable_statistics(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"arm statistics of {len(data)} bytes"):
        ArmStatistics.from_bytes(data)


def test_posterior() -> None:
    belief = posterior()
    with pytest.raises(ValueError, match="evidence of 'inbox' has shape"):
        belief.put("inbox", ArmStatistics.empty(3, 1.0))
    for act in (belief.remove, belief.statistics, lambda arm: belief.overlay(arm, context().x)):
        with pytest.raises(ValueError, match="arm is 'nobody', expected one of the 3"):
            act("nobody")


def test_supervised_statistics() -> None:
    contexts_, labels = contexts(20, seed=0)
    with pytest.raises(ValueError, match=r"labels hold \['inbox'\]"):
        supervised_statistics(contexts_, labels, ARMS[:2])
    with pytest.raises(ValueError, match="arm 'base' has neither labels nor outcomes"):
        supervised_statistics(contexts_, labels, (*ARMS, "base"))
    with pytest.raises(ValueError, match=r"outcomes has shape \(20, 1\), expected \(20, 3\)"):
        supervised_statistics(contexts_, labels, ARMS, np.zeros((20, 1)))
    with pytest.raises(ValueError, match="X has shape"):
        supervised_statistics(contexts_[:5], labels, ARMS)


def test_features_of_another_dimension() -> None:
    projection = Projection(np.ones((2, 5)), np.ones(2), np.ones((3, 2)), np.ones(3), np.ones(5), np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"h has shape \(1, 4\), expected \('any', 5\)"):
        projection.apply(np.ones((1, 4)))
    with pytest.raises(ValueError, match="W1 has shape"):
        replace(projection, W1=np.ones((2, 4)))
    with pytest.raises(ValueError, match="temperature is 0"):
        replace(projection, temperature=0)


def test_training_sets() -> None:
    with pytest.raises(ValueError, match=r"labels name \['a'\], expected at least 2 arms"):
        train_classifier(np.ones((3, 5)), ["a"] * 3, ClassifierConfig())
    with pytest.raises(ValueError, match="arm 'b' has 1 example, expected at least 2"):
        train_classifier(np.ones((3, 5)), ["a", "a", "b"], ClassifierConfig())
    with pytest.raises(ValueError, match="H has shape"):
        train_classifier(np.ones((2, 5)), ["a", "a", "b"], ClassifierConfig())
    mlp = RouterMLP(5, 2, ["a", "b"])
    with pytest.raises(ValueError, match="pca is 9"):
        fit_context_map(mlp, np.ones((4, 5)), ["a", "b"] * 2, ClassifierConfig(), pca=9)
    with pytest.raises(ValueError, match=r"outcomes have shape \(4, 1\), expected \(4, 0\)"):
        fit_context_map(mlp, np.eye(4, 5), ["a", "b"] * 2, ClassifierConfig(), pca=2, outcomes=np.ones((4, 1)))
