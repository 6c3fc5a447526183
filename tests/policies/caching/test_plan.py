"""The planned set against an optimum found by trying every set, written from the formula alone."""

from itertools import chain, combinations

import numpy as np
import pytest

from policies.caching.plan import Demand, Stock, best_set
from policies.checks import Array

Needs = dict[str, list[str]]


def worth(kept: set[str], demand: Demand, stock: dict[str, Stock], resident: set[str], horizon: float) -> float:
    """F(C), request by request and arm by arm."""
    served = 0.0
    for row in demand.values:
        served += max(
            value - sum(stock[k].price for k in demand.needs.get(arm, ()) if k not in kept)
            for arm, value in zip(demand.arms, row.tolist(), strict=True)
        )
    return served / len(demand.values) - sum(stock[k].price for k in kept if k not in resident) / horizon


def best_worth(demand: Demand, stock: dict[str, Stock], room: float, resident: set[str], horizon: float) -> float:
    sets = chain.from_iterable(combinations(sorted(stock), size) for size in range(len(stock) + 1))
    fitting = [set(each) for each in sets if sum(stock[k].size for k in each) <= room]
    return max(worth(each, demand, stock, resident, horizon) for each in fitting)


def instance(seed: int) -> tuple[Demand, dict[str, Stock], float, set[str], float]:
    """Up to eight adapters of sizes 1 to 3, an arm each, the base, and up to two mixtures of two."""
    rng = np.random.default_rng(seed)
    adapters = [f"k{k}" for k in range(rng.integers(3, 9))]
    needs: Needs = {f"only {k}": [k] for k in adapters} | {"base": []}
    for number in range(rng.integers(0, 3)):
        needs[f"mixture {number}"] = rng.choice(adapters, 2, replace=False).tolist()
    values = rng.random((rng.integers(3, 30), len(needs))) * rng.choice([0.2, 1.0])
    stock = {k: Stock(float(rng.integers(1, 4)), 0.5 * rng.random()) for k in adapters}
    resident = set(rng.choice(adapters, 2, replace=False).tolist())
    return Demand(tuple(needs), values, needs), stock, float(rng.integers(1, 10)), resident, float(rng.integers(1, 60))


def test_the_set_fits_and_is_nearly_always_the_best() -> None:
    shares = []
    for seed in range(200):
        demand, stock, room, resident, horizon = instance(seed)
        kept = set(best_set(demand, stock, room, sorted(resident), horizon))
        assert sum(stock[k].size for k in kept) <= room
        nothing = worth(set(), demand, stock, resident, horizon)
        possible = best_worth(demand, stock, room, resident, horizon) - nothing
        reached = worth(kept, demand, stock, resident, horizon) - nothing
        shares.append(reached / possible if possible > 1e-12 else 1.0)
    assert min(shares) > 1 - 1 / np.e
    assert np.mean(np.array(shares) > 1 - 1e-9) > 0.9
    assert max(shares) < 1 + 1e-9


def demand(*rows: tuple[float, ...]) -> Demand:
    """Arms base, a, b, c."""
    return Demand(("base", "a", "b", "c"), np.array(rows), {"a": ["a"], "b": ["b"], "c": ["c"]})


EQUAL = {name: Stock(1, 0.1) for name in "abc"}


def test_what_serves_most_requests_is_wanted_most() -> None:
    seen = demand(*[(0.0, 1.0, 0.0, 0.0)] * 2, *[(0.0, 0.0, 1.0, 0.0)] * 5, (0.0, 0.0, 0.0, 1.0))
    assert best_set(seen, EQUAL, room=2) == ("b", "a")
    assert best_set(seen, EQUAL, room=9) == ("b", "a", "c")


def test_nothing_is_kept_that_would_stand_unused() -> None:
    assert best_set(demand((1.0, 0.5, 0.5, 0.5)), EQUAL, room=9) == ()
    assert best_set(demand((0.0, 1.0, 0.95, 0.0)), EQUAL, room=9) == ("a",)


def test_a_swap_must_pay_for_itself_within_the_horizon() -> None:
    """c would serve one request in ten, so that it saves its price once in ten requests."""
    seen = demand(*[(0.0, 1.0, 0.0, 0.0)] * 9, (0.0, 0.0, 0.0, 1.0))
    assert best_set(seen, EQUAL, room=2, resident=["a"], horizon=5) == ("a",)
    assert best_set(seen, EQUAL, room=2, resident=["a"], horizon=20) == ("a", "c")


def test_room_goes_to_small_adapters_that_serve_more_together() -> None:
    seen = demand(*[(0.0, 1.0, 0.0, 0.0)] * 3, *[(0.0, 0.0, 1.0, 0.0)] * 2, *[(0.0, 0.0, 0.0, 1.0)] * 2)
    stock = {"a": Stock(2, 0.1), "b": Stock(1, 0.1), "c": Stock(1, 0.1)}
    assert set(best_set(seen, stock, room=2)) == {"b", "c"}


def test_an_arm_that_may_not_serve_wants_nothing() -> None:
    forbidden: Array = np.array([[0.0, -np.inf, 0.8, 0.0]])
    kept = best_set(Demand(("base", "a", "b", "c"), forbidden, {"a": ["a"], "b": ["b"], "c": ["c"]}), EQUAL, room=1)
    assert kept == ("b",)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="room is -1, expected a finite number"):
        best_set(demand((0, 0, 0, 0)), EQUAL, room=-1)
    with pytest.raises(ValueError, match="horizon is 0, expected more than 0"):
        best_set(demand((0, 0, 0, 0)), EQUAL, room=1, horizon=0)
    with pytest.raises(ValueError, match="price of 'a' is nan"):
        best_set(demand((0, 0, 0, 0)), EQUAL | {"a": Stock(1, float("nan"))}, room=1)
    with pytest.raises(ValueError, match="an arm needs 'c', expected one of the 2 adapters in stock"):
        best_set(demand((0, 0, 0, 0)), {"a": Stock(1, 0.1), "b": Stock(1, 0.1)}, room=1)
