"""The benchmark's own parts against small cases worked out by brute force."""

from itertools import product

import numpy as np
import pytest

from benchmarks.caching.oracle import oracle
from benchmarks.caching.shelf import Shelf, belady_hits
from policies.caching import create
from policies.caching.plan import Stock
from policies.checks import Array, Rows

STOCK = {name: Stock(1, 0.1) for name in "abcd"}
MS = dict.fromkeys(STOCK, 100.0)


def test_a_shelf_pays_for_every_page_in_and_forgets_what_left() -> None:
    shelf = Shelf(create("lru"), STOCK, MS, room=2)
    for arm in ["a", "b", "base", "a", "c", "b"]:
        shelf.serve(arm)
    assert (shelf.hits, shelf.misses, set(shelf.resident)) == (1, 4, {"b", "c"})
    assert shelf.paid == pytest.approx(0.4)
    assert shelf.waits.keys() == {"a", "d"}


def test_a_shelf_fetches_ahead_what_is_planned_and_pays_for_that() -> None:
    shelf = Shelf(create("polar"), STOCK, MS, room=2)
    shelf.serve("a")
    shelf.plan(["c", "b"])
    shelf.serve("base")
    assert set(shelf.resident) == {"a", "c"}  # a was needed lately
    assert shelf.paid == pytest.approx(0.2)
    for _ in range(9):
        shelf.plan(["c", "b"])
    shelf.serve("base")
    assert set(shelf.resident) == {"b", "c"}
    assert (shelf.hits, shelf.misses) == (0, 1)
    assert shelf.paid == pytest.approx(0.3)


def most_hits(sequence: str, room: int) -> int:
    """By trying every victim at every miss."""

    def best(at: int, resident: frozenset[str]) -> int:
        if at == len(sequence):
            return 0
        if sequence[at] in resident:
            return 1 + best(at + 1, resident)
        if len(resident) < room:
            return best(at + 1, resident | {sequence[at]})
        return max(best(at + 1, resident - {gone} | {sequence[at]}) for gone in resident)

    return best(0, frozenset())


def test_belady_hits_most() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        sequence = "".join(rng.choice(list("abcd"), 10))
        assert belady_hits(sequence, STOCK, 2) == most_hits(sequence, 2)


def utility(arms: tuple[int, ...], rates: Array, families: Rows, stock: dict[str, Stock], room: float) -> float:
    """The best that these arms can come to, over every choice of victims."""
    names = list(stock)

    def best(at: int, resident: frozenset[int]) -> float:
        if at == len(arms):
            return 0.0
        arm, reward = arms[at], float(rates[families[at], arms[at]])
        if arm == 0 or arm in resident:
            return reward + best(at + 1, resident)
        price, found = stock[names[arm - 1]].price, -np.inf
        for kept in product([False, True], repeat=len(resident)):
            stays = frozenset(k for k, stay in zip(sorted(resident), kept, strict=True) if stay) | {arm}
            if sum(stock[names[k - 1]].size for k in stays) <= room:
                found = max(found, reward - price + best(at + 1, stays))
        return found

    return best(0, frozenset())


def test_the_oracle_is_the_best_of_all_courses() -> None:
    stock = {"a": Stock(1, 0.05), "b": Stock(2, 0.1), "c": Stock(1, 0.2)}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rates, families = rng.random((2, 4)), rng.integers(2, size=4)
        found = oracle(rates, families, stock, room=2)
        value = float(rates[families, found.arms].sum()) - found.paid
        courses = product(range(4), repeat=4)
        assert value == pytest.approx(max(utility(arms, rates, families, stock, 2) for arms in courses))
