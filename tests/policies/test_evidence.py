"""Folding events one by one gives the sums written down from scratch, whatever their order and lateness."""

from dataclasses import dataclass, fields
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Array
from policies.evidence import ArmStatistics

D = 3


@dataclass
class Pull:
    """One decision of a generated story: when its reward comes, what it is, and what it becomes."""

    x: Array
    carries_before: int
    discount_before: float | None
    delay: int
    fate: str
    reward: float
    corrected: float | None
    weight: float


finite = st.floats(-2, 2)
pulls = st.builds(
    Pull,
    x=st.lists(finite, min_size=D, max_size=D).map(np.array),
    carries_before=st.integers(0, 0) | st.integers(0, 1),
    discount_before=st.none() | st.floats(0.5, 1.0),
    delay=st.integers(0, 30),
    fate=st.sampled_from(["matured", "matured", "late", "forgotten", "open"]),
    reward=st.floats(0, 1),
    corrected=st.none() | st.floats(0, 1),
    weight=st.floats(0.01, 1),
)
CARRY = 0.5


def played(story: list[Pull], discount: float) -> ArmStatistics:
    """Fold the story: rewards come `delay` pulls later, corrections another `delay` later, so they cross each other."""
    arm = ArmStatistics.empty(D, discount, "v0")
    ticks: dict[int, int] = {}
    for now in range(len(story) + 62):
        if now < len(story):
            for version in range(story[now].carries_before):
                arm.new_version(f"v{now}.{version}", CARRY)
            arm.change_discount(story[now].discount_before or arm.discount)
            ticks[now] = arm.pull(story[now].x, float(now))
        for i, pull in enumerate(story[: now + 1]):
            if now == i + pull.delay:
                settle(arm, pull, ticks[i], now)
            if now == i + 2 * pull.delay and pull.corrected is not None and pull.fate in ("matured", "late"):
                arm.correct(pull.x, ticks[i], pull.reward, pull.corrected, pull.weight, float(now))
    return arm


def settle(arm: ArmStatistics, pull: Pull, tick: int, now: int) -> None:
    if pull.fate in ("forgotten", "late"):
        arm.forget(pull.x, float(now))
    if pull.fate in ("matured", "late"):
        arm.mature(pull.x, tick, pull.reward, pull.weight, float(now), was_pending=pull.fate == "matured")


@settings(max_examples=60, deadline=None)
@given(st.lists(pulls, min_size=1, max_size=25), st.floats(0.5, 1.0))
def test_the_fold_equals_the_sum_from_scratch(story: list[Pull], discount: float) -> None:
    arm = played(story, discount)
    S, e, P = np.zeros((D, D)), np.zeros(D), np.zeros((D, D))
    size_S, size_e, size_P = 1e-30, 1e-30, 1e-30
    rewards, rates = [], [discount]
    for pull in story:
        rates.append(pull.discount_before or rates[-1])
    for i, pull in enumerate(story):
        if pull.fate == "open":
            P += np.outer(pull.x, pull.x)
        size_P += float(pull.x @ pull.x)
        if pull.fate not in ("matured", "late"):
            continue
        reward = pull.reward if pull.corrected is None else pull.corrected
        later_versions = sum(other.carries_before for other in story[i + 1 :])
        strength = pull.weight * prod(rates[i + 2 :]) * CARRY**later_versions
        S += strength * np.outer(pull.x, pull.x)
        e += strength * reward * pull.x
        size_S += strength * float(pull.x @ pull.x)
        size_e += strength * float(np.abs(pull.x).max())
        rewards.append(reward)
    assert np.abs(arm.S - S).max() <= 1e-9 * size_S
    assert np.abs(arm.e - e).max() <= 1e-9 * size_e
    assert np.abs(arm.P - P).max() <= 1e-9 * size_P
    assert np.array_equal(arm.S, arm.S.T)
    assert np.array_equal(arm.P, arm.P.T)
    assert (arm.tick, arm.pulls, arm.matured) == (len(story), len(story), len(rewards))
    assert arm.pending == sum(pull.fate == "open" for pull in story)
    assert arm.reward_sum == pytest.approx(sum(rewards))
    assert arm.reward_square_sum == pytest.approx(sum(reward**2 for reward in rewards))
    assert arm.kappa == CARRY ** sum(pull.carries_before for pull in story)


@settings(max_examples=30, deadline=None)
@given(st.lists(pulls, min_size=1, max_size=10), st.floats(0.5, 1.0))
def test_bytes_round_trip_exactly(story: list[Pull], discount: float) -> None:
    arm = played(story, discount)
    again = ArmStatistics.from_bytes(arm.to_bytes())
    for each in fields(ArmStatistics):
        assert np.array_equal(getattr(again, each.name), getattr(arm, each.name)), each.name
    assert again.to_bytes() == arm.to_bytes()
    again.pull(story[0].x, 99.0)
    assert (again.tick, again.updated) == (arm.tick + 1, 99.0)


def test_another_discount_leaves_the_past_as_it_is() -> None:
    x, arm = np.array([1.0, 0.0]), ArmStatistics.empty(2, 0.5)
    first, second = arm.pull(x, 0.0), arm.pull(x, 0.0)
    arm.mature(x, first, 1.0, 1.0, 1.0, was_pending=True)
    arm.change_discount(1.0)
    assert arm.S[0, 0] == 0.5
    arm.mature(x, second, 1.0, 1.0, 2.0, was_pending=True)
    assert arm.S[0, 0] == 1.5
    arm.pull(x, 3.0)
    arm.retract(x, first, 1.0, 1.0, 4.0)
    assert arm.S[0, 0] == 1.0


def test_nothing_pending_leaves_no_rounding() -> None:
    arm = ArmStatistics.empty(2, 0.9)
    contexts = [np.array([0.1 * i, 0.3]) for i in range(1, 30)]
    for x in contexts:
        arm.pull(x, 0.0)
    for x in reversed(contexts):
        arm.forget(x, 1.0)
    assert not arm.P.any()
    assert arm.updated == 1.0


def test_a_new_version_discounts_what_was_known_and_what_comes_late_from_before() -> None:
    x = np.array([1.0, 0.0])
    early, late = (ArmStatistics.empty(2, 1.0, "old") for _ in range(2))
    for arm in (early, late):
        arm.pull(x, 0.0)
    early.mature(x, 1, 1.0, 1.0, 1.0, was_pending=True)
    for arm in (early, late):
        arm.new_version("new", 0.25)
    late.mature(x, 1, 1.0, 1.0, 2.0, was_pending=True)
    assert early.S[0, 0] == late.S[0, 0] == late.e[0] == 0.25
    assert (late.kappa, late.adapter_hash) == (0.25, "new")


def test_a_retracted_reward_leaves_what_was_there_before() -> None:
    arm = ArmStatistics.empty(D, 0.9)
    first, second = np.array([1.0, 0.5, 0.0]), np.array([0.0, 1.0, -1.0])
    kept, withdrawn = arm.pull(first, 1.0), arm.pull(second, 2.0)
    arm.mature(first, kept, 1.0, 1.0, 3.0, was_pending=True)
    before = arm.to_bytes()
    arm.mature(second, withdrawn, 0.25, 0.5, 3.0, was_pending=True)
    arm.retract(second, withdrawn, 0.25, 0.5, 3.0)
    expected = ArmStatistics.from_bytes(before)
    np.testing.assert_allclose(arm.S, expected.S, atol=1e-12)
    np.testing.assert_allclose(arm.e, expected.e, atol=1e-12)
    assert (arm.matured, arm.reward_sum, arm.pending) == (1, 1.0, 0)
