"""Calibration, and the figures and alarms that tell of collapse."""

import numpy as np
import pytest

from policies.training.calibration import calibrate, ece, probabilities
from policies.training.collapse import alarms, health

ARMS = ("a", "b", "c", "d")


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    drawn = np.array([rng.choice(3, p=gates) for gates in probabilities(logits)])
    found = calibrate(logits * 4, drawn)
    assert found.temperature == pytest.approx(4.0, rel=0.05)
    assert found.ece_after < 0.02 < 0.1 < found.ece_before


def test_a_few_examples_without_an_error_do_not_make_the_gates_certain() -> None:
    logits = 2.0 * np.eye(3)[np.arange(30) % 3]
    found = calibrate(logits, np.arange(30) % 3)
    assert probabilities(logits, found.temperature).max() == pytest.approx(1 - 1 / 32, abs=0.002)
    with pytest.raises(ValueError, match="0 rows"):
        calibrate(np.zeros((0, 3)), np.zeros(0, dtype=np.intp))


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    gates = np.array([[0.9, 0.1]] * 10)
    assert ece(gates, np.array([0] * 7 + [1] * 3)) == pytest.approx(0.2)
    assert ece(gates, np.array([0] * 9 + [1])) == pytest.approx(0.0)


def test_labels_count_equally_in_the_figures() -> None:
    gates = np.vstack([[[0.95, 0.05, 0.0, 0.0]] * 90, [[0.6, 0.4, 0.0, 0.0]] * 10])
    found = health(gates, ARMS, ["a"] * 90 + ["b"] * 10)
    assert found.use["a"] == pytest.approx((0.95 + 0.6) / 2)
    assert found.peaked == pytest.approx(0.5)
    assert found.chosen["a"] == pytest.approx(1.0)
    assert found.recall == {"a": 1.0, "b": 0.0}
    assert found.mean_recall == 0.5


def test_entropy_goes_from_0_to_1() -> None:
    assert health(np.full((5, 4), 0.25), ARMS, [""] * 5).entropy == pytest.approx(1.0)
    assert health(np.eye(4), ARMS, [""] * 4).entropy == 0.0


def test_alarms_name_who_takes_over_and_who_is_lost() -> None:
    labels = [*"aaaabbbb"]
    taken = np.eye(4)[[0] * 7 + [1]]
    assert alarms(health(taken, ARMS, labels)) == [
        "a takes over: it gets 88% of the requests, expected about 50%",
        "b is lost: 25% of its requests find it",
    ]
    assert alarms(health(np.eye(4)[[0] * 4 + [1] * 4], ARMS, labels)) == []
    assert "c takes over" in alarms(health(np.eye(4)[[2] * 8], ARMS, [""] * 8))[0]
    assert alarms(health(np.eye(4), ARMS, [""] * 4)) == []
