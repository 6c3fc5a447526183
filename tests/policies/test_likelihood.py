"""Empirical likelihood: agrees with what is known in closed form, and covers."""

import math

import numpy as np
import pytest

from policies.likelihood import Moment, interval


def mean_of(values: list[float], count: list[float] | None = None) -> Moment:
    anchor = np.array(values)
    return Moment(np.ones(len(anchor)), anchor, np.array(count or [1.0] * len(anchor)), 0.0, 1.0)


def test_a_share_has_the_interval_of_its_likelihood_ratio() -> None:
    """For a binomial share empirical likelihood is the likelihood itself: 2n·KL(share, θ) is the limit at each end."""
    low, high = interval(mean_of([1.0, 0.0], [80.0, 20.0]), 0.95, 1e9)
    for theta in (low, high):
        divergence = 0.8 * math.log(0.8 / theta) + 0.2 * math.log(0.2 / (1 - theta))
        assert 2 * 100 * divergence == pytest.approx(1.959964**2, rel=1e-3)
    assert low < 0.8 < high


def test_only_successes_leave_room_below() -> None:
    low, high = interval(mean_of([1.0] * 50), 0.95, 1e9)
    assert high == 1.0
    assert low == pytest.approx(math.exp(-(1.959964**2) / 2 / 50), abs=1e-4)


def test_counts_stand_for_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    weight, reward = rng.exponential(size=40), rng.integers(0, 2, 40).astype(float)
    repeated = Moment(np.repeat(weight, 3), np.repeat(reward, 3), np.ones(120), 0.0, 1.0)
    counted = Moment(weight, reward, np.full(40, 3.0), 0.0, 1.0)
    assert counted.estimate == pytest.approx(repeated.estimate)
    assert counted.effective == pytest.approx(repeated.effective)
    assert interval(counted, 0.9, 50) == pytest.approx(interval(repeated, 0.9, 50), abs=1e-4)


def test_rows_of_no_weight_say_nothing() -> None:
    some = Moment(np.array([1.0, 2.0, 0.0]), np.array([0.2, 0.9, 0.1]), np.ones(3), 0.0, 1.0)
    without = Moment(some.slope[:2], some.anchor[:2], some.count[:2], 0.0, 1.0)
    assert interval(some, 0.95, 10) == interval(without, 0.95, 10)


def test_fewer_rows_and_a_higher_level_widen_it() -> None:
    moment = mean_of([1.0, 0.0], [30.0, 10.0])
    usual = interval(moment, 0.95, 1e9)
    for wider in (interval(moment, 0.95, 5), interval(moment, 0.99, 1e9)):
        assert wider[0] < usual[0] < usual[1] < wider[1]


def test_it_covers_under_rare_large_weights_near_one() -> None:
    """The case in which symmetric intervals do not: one row in fifty weighs fifty, success 0.95."""
    rng = np.random.default_rng(0)
    slope, anchor = np.array([50.0, 50.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    share = np.array([0.019, 0.001, 0.475, 0.025, 0.48])
    covered = 0
    for _ in range(400):
        moment = Moment(slope, anchor, rng.multinomial(4000, share).astype(float), 0.0, 1.0)
        low, high = interval(moment, 0.95, moment.effective)
        covered += low <= 0.95 <= high
    assert 0.92 <= covered / 400 <= 0.98
