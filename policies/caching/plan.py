"""Which set to keep for the requests to come: the slow scale of POLAR (2026).

    F(C) = (1/n) Σᵢ max_a [ θ_aᵀxᵢ − Σ_{k needed by a, k ∉ C} c_k ]  −  (1/h) Σ_{k ∈ C, k not resident} c_k

over n recent contexts, or sums of those that one page-in serves, under Σ_{k ∈ C} size_k ≤ room. c_k is a page-in's
price in reward, h the rows over which a fetched adapter is expected to pay for itself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from policies import checks
from policies.checks import Array, Rows


class Stock(NamedTuple):
    """An adapter as the plan sees it: its size, in the unit of the room, and what a page-in costs in reward."""

    size: float
    price: float


@dataclass(frozen=True, eq=False)
class Demand:
    """What n recent requests, or runs of them, would earn: values [n,A] of the arms, −∞ where one may not serve.

    `needs` are each arm's adapters.
    """

    arms: tuple[str, ...]
    values: Array
    needs: Mapping[str, Sequence[str]]


def best_set(
    demand: Demand, stock: Mapping[str, Stock], room: float, resident: Collection[str] = (), horizon: float = np.inf
) -> tuple[str, ...]:
    """The set to keep, most wanted first; what would stand unused is not in it.

    Greedy by gain and by gain per size, whichever comes out better. Without the swap term, with equal sizes and one
    adapter an arm, that is within 1 − 1/e of the best (Nemhauser 1978).
    ValueError: a size, price, room or horizon that cannot be, an arm that needs an adapter that is not in stock.
    """
    problem = Problem.of(demand, stock, room, resident, horizon)
    rules = (False, True) if len(set(problem.sizes.tolist())) > 1 else (False,)
    _, kept = max((problem.grown(per_size) for per_size in rules), key=lambda grown: grown[0])
    return tuple(problem.adapters[k] for k in kept)


@dataclass(frozen=True, eq=False)
class Problem:
    """The same as arrays, without the arms that no request would get even if nothing had to be fetched.

    Pair j says that arm `arm[j]` needs adapter `adapter[j]`, pairs are sorted by adapter, and adapter k's begin at
    `first[k]`. worth [J,n] is what the pair's arm earns at each request; floor [n] what is earned if nothing is kept.
    """

    adapters: tuple[str, ...]
    worth: Array
    floor: Array
    arm: Rows
    adapter: Rows
    first: Rows
    sizes: Array
    prices: Array
    swaps: Array
    room: float

    @classmethod
    def of(
        cls, demand: Demand, stock: Mapping[str, Stock], room: float, resident: Collection[str], horizon: float
    ) -> "Problem":
        checks.number("room", room, 0)
        if not horizon > 0:
            raise ValueError(f"horizon is {horizon}, expected more than 0")
        for name, (size, price) in stock.items():
            checks.number(f"size of {name!r}", size, 0)
            checks.number(f"price of {name!r}", price, 0)
        needs = [demand.needs.get(arm, ()) for arm in demand.arms]
        if unknown := [k for each in needs for k in each if k not in stock]:
            raise ValueError(f"an arm needs {unknown[0]!r}, expected one of the {len(stock)} adapters in stock")
        floor = (demand.values - [sum(stock[k].price for k in each) for each in needs]).max(axis=1)
        wanted = np.flatnonzero((demand.values > floor[:, np.newaxis]).any(axis=0)).tolist()
        adapters = tuple(sorted({k for a in wanted for k in needs[a]}))
        place = {name: k for k, name in enumerate(adapters)}
        pairs = sorted((place[k], a) for a in wanted for k in needs[a])
        adapter, arm = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        sizes, prices = (np.array([getattr(stock[k], part) for k in adapters]) for part in ("size", "price"))
        swaps = np.where(np.isin(adapters, list(resident)), 0.0, prices / horizon)
        first = np.searchsorted(adapter, np.arange(len(adapters)))
        worth = np.ascontiguousarray(demand.values[:, arm].T)
        return cls(adapters, worth, floor, arm, adapter, first, sizes, prices, swaps, room)

    def grown(self, per_size: bool) -> tuple[float, list[int]]:
        """F(C) above that of the empty set, and C: add what gains most, or most per size, while something fits."""
        kept, reached = list[int](), 0.0
        earned = self.floor.copy()
        missing = np.bincount(self.arm, self.prices[self.adapter]).astype(np.float64)[self.arm]
        """What each pair's arm would still have to fetch."""
        left, room = np.ones(len(self.adapters), dtype=np.bool_), self.room
        weights = np.maximum(self.sizes, 1e-9) if per_size else np.ones(len(self.sizes))
        while (free := left & (self.sizes <= room + 1e-9)).any():
            gains = self._gains(missing, earned)
            rates = np.where(free & (gains > 1e-12), gains / weights, 0.0)
            k = int(rates.argmax())
            if not rates[k]:
                break
            kept.append(k)
            left[k], room, reached = False, room - self.sizes[k], reached + float(gains[k])
            mine = np.isin(self.arm, self.arm[self.adapter == k])
            missing[mine] -= self.prices[k]
            np.maximum(earned, (self.worth[mine] - missing[mine, np.newaxis]).max(axis=0), out=earned)
        return reached, kept

    def _gains(self, missing: Array, earned: Array) -> Array:
        """What each adapter [K] would add to F."""
        more = self.worth - (missing - self.prices[self.adapter])[:, np.newaxis]
        more -= earned
        best = np.maximum.reduceat(more, self.first, axis=0) if len(self.first) < len(more) else more
        gains: Array = np.maximum(best, 0.0, out=best).mean(axis=1) - self.swaps
        return gains
