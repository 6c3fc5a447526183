"""An arm that breaks and is repaired: the alarms, what they leave of κ and evidence, and that a replay agrees."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Array
from policies.detector import Detector
from policies.drift import Alarm, Watch
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig
from tests.policies.worlds import DIMENSION, contexts, prior

ARM = "calendar"
CONFIG = LearningConfig()


def family(n: int, seed: int) -> Array:
    """The first n contexts of the arm's own family, the same ones for the same seed."""
    X, labels = contexts(6_000, seed)
    return X[[label == ARM for label in labels]][:n]


def live(
    arm: ArmStatistics, rate: float, n: int, seed: int, config: LearningConfig = CONFIG, weight: float = 1.0
) -> list[Alarm]:
    """n decisions for the arm, each rewarded at once with success at `rate`; the alarms they raise."""
    detector, rng = Detector(prior(config)), np.random.default_rng(seed)
    alarms = []
    for i, x in enumerate(family(n, seed)):
        tick = arm.pull(x, float(i))
        reward = float(rng.random() < rate)
        alarms.append(detector.mature(ARM, arm, x, tick, reward, weight, float(i), was_pending=True))
    return [alarm for alarm in alarms if alarm]


def fresh(config: LearningConfig = CONFIG) -> ArmStatistics:
    return ArmStatistics.empty(DIMENSION, config.discount)


def believed(arm: ArmStatistics, config: LearningConfig = CONFIG) -> float:
    theta = np.linalg.solve(*prior(config).with_evidence(ARM, arm))
    return float((family(50, 99) @ theta).mean())


def test_an_arm_that_does_as_believed_raises_no_alarm() -> None:
    arm = fresh()
    assert live(arm, 0.95, 1_500, seed=0) == []
    assert (arm.kappa, arm.cuts, arm.alarms) == (1.0, [], [])


def test_an_arm_that_breaks_is_noticed_soon_and_the_prior_is_trusted_less() -> None:
    arm = fresh()
    live(arm, 0.95, 300, seed=1)
    known = believed(arm)
    alarms = live(arm, 0.05, 40, seed=2)
    assert alarms[0].tick <= 300 + 15
    assert (alarms[0].worse, alarms[0].restored, alarms[0].kappa) == (True, False, CONFIG.drift_trust)
    assert arm.alarms == alarms
    assert believed(arm) < known - 0.6


def test_an_arm_that_is_repaired_is_trusted_as_at_first() -> None:
    arm = fresh()
    live(arm, 0.95, 300, seed=1)
    live(arm, 0.05, 60, seed=2)
    alarms = live(arm, 0.95, 30, seed=3)
    assert (alarms[0].worse, alarms[0].restored, alarms[0].kappa) == (False, True, 1.0)
    assert alarms[0].tick <= 360 + 15
    assert (arm.kappa, arm.standing) == (1.0, 1.0)
    assert believed(arm) > 0.75


def test_without_a_threshold_nothing_is_tested() -> None:
    config = replace(CONFIG, drift_threshold=0.0)
    arm = fresh(config)
    assert live(arm, 0.95, 100, 1, config) + live(arm, 0.0, 100, 2, config) == []
    assert (arm.watch, arm.kappa) == (Watch(), 1.0)


@pytest.mark.parametrize(
    ("change", "slower"),
    [({"drift_threshold": 20.0}, True), ({"drift_slack": 1.0}, True), ({"drift_threshold": 3.0}, False)],
)
def test_threshold_and_slack_say_how_soon(change: dict[str, Any], slower: bool) -> None:
    ticks = []
    for config in (CONFIG, replace(CONFIG, **change)):
        arm = fresh(config)
        live(arm, 0.95, 300, 1, replace(config, drift_threshold=0.0))
        ticks.append(live(arm, 0.05, 60, 2, config)[0].tick)
    assert (ticks[1] > ticks[0]) is slower
    assert ticks[1] != ticks[0]


def test_an_alarm_leaves_the_configured_shares() -> None:
    config = replace(CONFIG, drift_trust=0.5, drift_carry=0.125)
    arm = fresh(config)
    live(arm, 0.95, 200, 1, config)
    tested, untested = (ArmStatistics.from_bytes(arm.to_bytes()) for _ in range(2))
    alarm = live(tested, 0.05, 40, 2, config)[0]
    live(untested, 0.05, alarm.tick - 200, 2, replace(config, drift_threshold=0.0))
    upto = fresh(config)
    live(upto, 0.95, 200, 1, config)
    assert live(upto, 0.05, alarm.tick - 200, 2, config) == [alarm]
    assert upto.kappa == 0.5
    assert pytest.approx(0.125 * untested.S) == upto.S
    assert upto.e == pytest.approx(0.125 * untested.e)


def test_what_was_decided_before_the_drift_counts_less_and_what_came_after_counts_fully() -> None:
    """Rewards of both come late; a correction and a retraction take back exactly what was given."""
    x = np.eye(DIMENSION)[0]
    arm = ArmStatistics.empty(DIMENSION, 1.0)
    early, seen, later = (arm.pull(x, 0.0) for _ in range(3))
    arm.mature(x, seen, 1.0, 1.0, 1.0, was_pending=True)
    arm.drifted(Alarm(seen, 1.0, worse=True, restored=False, kappa=0.5), 0.25)
    assert arm.S[0, 0] == 0.25
    arm.mature(x, early, 1.0, 1.0, 2.0, was_pending=True)
    arm.mature(x, later, 1.0, 1.0, 2.0, was_pending=True)
    assert arm.S[0, 0] == arm.e[0] == 0.25 + 0.25 + 1.0
    assert [arm.is_current(tick) for tick in (early, seen, later)] == [False, False, True]
    arm.correct(x, seen, 1.0, 0.0, 1.0, 3.0)
    arm.retract(x, later, 1.0, 1.0, 3.0)
    assert (arm.S[0, 0], arm.e[0]) == (0.5, 0.25)


def test_decisions_from_before_an_alarm_are_not_tested_again() -> None:
    arm, X = fresh(), family(60, 5)
    ticks = [arm.pull(x, 0.0) for x in X]
    detector = Detector(prior())
    alarms = [
        detector.mature(ARM, arm, x, tick, 0.0, 1.0, 1.0, was_pending=True)
        for x, tick in zip(X[::-1], reversed(ticks), strict=True)
    ]
    assert sum(alarm is not None for alarm in alarms) == 1


def test_new_weights_are_trusted_as_far_as_the_versions_leave_it() -> None:
    arm = fresh()
    live(arm, 0.95, 200, seed=1)
    live(arm, 0.05, 40, seed=2)
    assert arm.kappa < 1.0
    arm.new_version("v2", 0.5)
    assert (arm.kappa, arm.standing, arm.watch) == (0.5, 0.5, Watch())


def test_light_words_count_lightly() -> None:
    arm = fresh()
    live(arm, 0.95, 300, seed=1)
    light = ArmStatistics.from_bytes(arm.to_bytes())
    soon, late = live(arm, 0.05, 60, 2)[0], live(light, 0.05, 60, 2, weight=0.3)[0]
    assert late.tick > soon.tick


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4), st.integers(0, 99))
def test_the_same_stream_gives_the_same_alarms_wherever_it_is_cut(rates: list[float], seed: int) -> None:
    whole, parted = fresh(), fresh()
    for i, rate in enumerate(rates):
        first = live(whole, rate, 40, seed + i)
        parted = ArmStatistics.from_bytes(parted.to_bytes())
        assert live(parted, rate, 40, seed + i) == first
    assert parted.to_bytes() == whole.to_bytes()
