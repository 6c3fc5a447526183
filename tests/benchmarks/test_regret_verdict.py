"""What is promised of the comparison can fail, and fails where it should."""

import numpy as np
import pytest

from benchmarks.regret.simulation import Lived
from benchmarks.regret.verdict import Interval, judge, rows

SEEDS, STEPS = 20, 1000


def lived(changes: tuple[int, ...] = (), **greedy: float) -> Lived:
    """Learners whose greedy choice succeeds at these rates, and serves 2 points less; the oracle always succeeds."""
    rng = np.random.default_rng(0)
    draws = rng.random((SEEDS, STEPS))
    success = {name: (draws < rate).astype(np.float64) for name, rate in greedy.items()}
    served = {name: (draws < rate - 0.02).astype(np.float64) for name, rate in greedy.items()}
    known = np.broadcast_to(np.arange(STEPS) % 2 == 0, (SEEDS, STEPS))
    return Lived(served, success, np.ones((SEEDS, STEPS)), known, changes)


def failed(world: str, lives: Lived) -> list[str]:
    return [check.name for check in judge({world: lives}, widths=True) if not check.ok]


def test_an_interval_is_students() -> None:
    samples = np.random.default_rng(1).normal(0.9, 0.02, size=20)
    assert Interval.of(samples).half == pytest.approx(100 * 2.0930 * samples.std(ddof=1) / 20**0.5, rel=1e-3)
    assert Interval.of(samples[:3]).half == pytest.approx(100 * 4.3027 * samples[:3].std(ddof=1) / 3**0.5, rel=0.05)


def test_exploration_is_told_apart_from_the_choice() -> None:
    row = rows(lived(linucb=0.9))["linucb"]
    assert row.greedy.mean - row.taken.mean == pytest.approx(row.exploration.mean)
    assert row.exploration.mean == pytest.approx(2, abs=0.6)


def test_ours_may_be_within_the_interval_of_the_best_and_no_further() -> None:
    assert failed("b linear", lived(linucb=0.9, mlp=0.9)) == []
    assert failed("b linear", lived(linucb=0.9, mlp=0.85)) == []
    assert failed("b linear", lived(linucb=0.9, mlp=0.93)) == ["b linear: greedy linucb − mlp"]


def test_ours_may_be_a_point_below_the_mlp_where_it_knows_the_families() -> None:
    worse = lived(linucb=0.9, mlp=0.93)
    assert "a table: greedy linucb − mlp, all requests" in failed("a table", worse)
    assert "a table: greedy linucb − mlp, requests of families that the MLP knows" in failed("a table", worse)


def test_recovery_is_judged_from_300_rewards_after_each_change() -> None:
    lives = lived(changes=(100, 500), linucb=1.0, mlp=0.0)
    lives.greedy["linucb"][:, 100:400] = 0
    lives.greedy["linucb"][:, 500:800] = 0
    recoveries = [check for check in judge({"c drift": lives}, widths=False) if "rewards after" in check.name]
    assert [check.value for check in recoveries] == [0, 0]
    lives.greedy["linucb"][:, 850:900] = 0
    assert failed("c drift", lives)[-1] == "c drift: oracle − greedy linucb, 300 rewards after the arm was repaired"


def test_few_seeds_make_wide_intervals() -> None:
    rng = np.random.default_rng(2)
    lives = lived(linucb=0.9, mlp=0.5)
    lives.greedy["mlp"][:] = rng.random((SEEDS, 1)) < 0.5
    assert "widest half-width of an interval" in failed("b linear", lives)
