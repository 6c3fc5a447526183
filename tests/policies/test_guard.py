"""The guard: seldom wrong however often it is asked, and quick where the policy is worse."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from policies.guard import Guard, GuardConfig


class Unit(NamedTuple):
    weight: float
    reference: float
    reward: float
    same: bool


def stream(
    units: int, rng: np.random.Generator, own: float, other: float, *, differing: float = 1.0, epsilon: float = 0.05
) -> Iterator[Unit]:
    """A log of a policy that earns `own` and follows its reference, which earns `other`, in `epsilon` of the units."""
    for same, explored, luck in zip(rng.random(units) >= differing, rng.random(units), rng.random(units), strict=True):
        if same:
            yield Unit(1.0, 1.0, float(luck < 0.9), True)
        elif explored < epsilon:
            yield Unit(0.0, 1 / epsilon, float(luck < other), False)
        else:
            yield Unit(1 / (1 - epsilon), 0.0, float(luck < own), False)


def config(delta: float = 0.05, margin: float = 0.0, epsilon: float = 0.05) -> GuardConfig:
    return GuardConfig(delta, margin, weight=1 / (1 - epsilon), reference_weight=1 / epsilon)


def alarm(guard: Guard, units: Iterator[Unit]) -> int | None:
    """The unit of the alarm; what comes after it is not taken."""
    for unit in units:
        if guard.observe(*unit[:3], same=unit.same):
            return guard.units
    return None


@pytest.mark.parametrize("value", [0.3, 0.9])
def test_a_policy_that_is_not_worse_is_seldom_accused(value: float) -> None:
    """1,000 logs in all, asked after each of 100 units, δ = 0.1."""
    accused = 0
    for seed in range(500):
        units = stream(100, np.random.default_rng(seed), value, value, epsilon=0.2)
        accused += alarm(Guard(config(0.1, epsilon=0.2)), units) is not None
    assert accused / 500 <= 0.1


@pytest.mark.parametrize(("own", "other", "within"), [(0.1, 0.9, 600), (0.4, 0.9, 1500)])
def test_a_bad_policy_is_found(own: float, other: float, within: int) -> None:
    """Where it differs, it earns less; the reference is tried in one unit of twenty."""
    found = [alarm(Guard(config()), stream(within, np.random.default_rng(seed), own, other)) for seed in range(20)]
    assert sum(at is not None for at in found) >= 19


def test_a_policy_that_turns_bad_after_a_good_time_is_found() -> None:
    found = 0
    for seed in range(10):
        rng, guard = np.random.default_rng(seed), Guard(config())
        assert alarm(guard, stream(2000, rng, 0.9, 0.6)) is None
        found += alarm(guard, stream(2000, rng, 0.1, 0.9)) is not None
    assert found >= 9


def test_a_better_policy_is_not_accused() -> None:
    assert all(alarm(Guard(config()), stream(1000, np.random.default_rng(s), 0.9, 0.7)) is None for s in range(5))


def test_a_margin_forgives_a_small_loss() -> None:
    """The same log: 0.3 worse on average."""
    strict, lenient = Guard(config()), Guard(config(margin=0.4))
    assert alarm(strict, stream(3000, np.random.default_rng(1), 0.6, 0.9))
    assert alarm(lenient, stream(3000, np.random.default_rng(1), 0.6, 0.9)) is None


def test_where_both_choose_the_same_nothing_is_learned() -> None:
    guard = Guard(config())
    assert alarm(guard, stream(300, np.random.default_rng(0), 0.1, 0.9, differing=0.0)) is None
    assert (guard.units, guard.differing) == (300, 0)
    assert guard.evidence == pytest.approx(0.05 * 0.5)  # the first bet's share of the capital, times δ


def test_the_alarm_stands_and_is_raised_once() -> None:
    guard, rng = Guard(config()), np.random.default_rng(0)
    at = alarm(guard, stream(2000, rng, 0.1, 0.9))
    assert at
    assert not any(guard.observe(*unit[:3], same=unit.same) for unit in stream(300, rng, 0.1, 0.9))
    assert (guard.alarm, guard.units) == (at, at + 300)


def test_weights_beyond_the_stated_bounds_do_not_break_it() -> None:
    guard = Guard(config())
    for _ in range(50):
        guard.observe(0.0, 1e6, 0.0, same=False)
        guard.observe(1e6, 0.0, 1.0, same=False)
    assert np.isfinite(guard.capital).all()
    assert guard.alarm is None


def test_it_goes_on_where_it_was() -> None:
    through, rng = Guard(config()), np.random.default_rng(3)
    resumed = Guard(config())
    for unit in stream(1200, rng, 0.7, 0.8):
        through.observe(*unit[:3], same=unit.same)
        resumed.observe(*unit[:3], same=unit.same)
        if resumed.units % 100 == 0:
            resumed = Guard.from_json(resumed.to_json(), config())
    assert resumed.to_json() == through.to_json()
    assert len(resumed.capital) == 3


def test_another_promise_begins_anew() -> None:
    guard = Guard(config())
    alarm(guard, stream(50, np.random.default_rng(0), 0.5, 0.5))
    assert Guard.from_json(guard.to_json(), config(delta=0.01)).units == 0


def test_bets_do_not_pile_up() -> None:
    guard = Guard(GuardConfig(restart=2, bets=3))
    alarm(guard, stream(40, np.random.default_rng(0), 0.9, 0.9))
    assert (guard.begun, len(guard.capital)) == (20, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.0, 1.5), "reward is 1.5"),
        ((-1.0, 0.0, 1.0), "weight is -1.0"),
        ((1.0, float("nan"), 1.0), "reference is nan"),
    ],
)
def test_what_is_no_unit_is_refused(arguments: tuple[float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guard(config()).observe(*arguments, same=False)


@pytest.mark.parametrize("name", ["delta", "margin", "weight", "reference_weight", "restart", "bets"])
def test_a_setting_out_of_range_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is -1"):
        GuardConfig(**{name: -1})


def test_evidence_stays_a_number_however_long_the_alarm_stands() -> None:
    guard = Guard(GuardConfig(delta=0.05, margin=0.0, weight=4.0, reference_weight=4.0))
    for _ in range(2000):
        guard.observe(0.0, 4.0, 1.0, same=False)
    assert guard.alarm
    assert 1 < guard.evidence < np.inf
    json.dumps(guard.evidence, allow_nan=False)
