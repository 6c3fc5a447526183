"""Which set to keep for the requests to come: the slow scale of POLAR (2026).

    F(C) = (1/n) Σᵢ max_a [ θ_aᵀxᵢ − Σ_{k needed by a, k ∉ C} c_k ]  −  (1/h) Σ_{k ∈ C, k not resident} c_k

over n recent contexts, under Σ_{k ∈ C} size_k ≤ room. c_k is a page-in's price in reward, h the requests over which a
fetched adapter is expected to pay for itself.
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
    """What n recent requests would earn: values [n,A] of the arms, −∞ where one may not serve, and what each needs."""

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
    best = max((problem.grown(per_size) for per_size in rules), key=problem.objective)
    return tuple(problem.adapters[k] for k in best)


@dataclass(frozen=True, eq=False)
class Problem:
    """The same as arrays. Pair j says that arm `arm[j]` needs adapter `adapter[j]`; pairs are sorted by adapter."""

    adapters: tuple[str, ...]
    values: Array
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
        pairs = [(k, a) for a, arm in enumerate(demand.arms) for k in demand.needs.get(arm, ())]
        if unknown := [k for k, _ in pairs if k not in stock]:
            raise ValueError(f"an arm needs {unknown[0]!r}, expected one of the {len(stock)} adapters in stock")
        adapters = tuple(sorted({k for k, _ in pairs}))
        place = {name: k for k, name in enumerate(adapters)}
        indices = np.array(sorted((place[k], a) for k, a in pairs), dtype=np.intp).reshape(-1, 2)
        sizes, prices = (np.array([getattr(stock[k], part) for k in adapters]) for part in ("size", "price"))
        swaps = np.where(np.isin(adapters, list(resident)), 0.0, prices / horizon)
        first = np.searchsorted(indices[:, 0], np.arange(len(adapters)))
        return cls(adapters, demand.values, indices[:, 1], indices[:, 0], first, sizes, prices, swaps, room)

    def objective(self, kept: Sequence[int]) -> float:
        """F(C) of a set."""
        return float(self._served(kept).max(axis=1).mean() - self.swaps[list(kept)].sum())

    def grown(self, per_size: bool) -> list[int]:
        """Add what gains most, or most per size, as long as something fits that gains."""
        kept: list[int] = []
        weights = np.maximum(self.sizes, 1e-9) if per_size else np.ones(len(self.sizes))
        free = np.ones(len(self.sizes), dtype=np.bool_)
        while True:
            gains = self._gains(kept)
            fits = self.sizes <= self.room - self.sizes[kept].sum() + 1e-9
            rates = np.where(free & fits & (gains > 1e-12), gains / weights, 0.0)
            if not rates.any():
                return kept
            kept.append(int(rates.argmax()))
            free[kept[-1]] = False

    def _served(self, kept: Sequence[int]) -> Array:
        """Values [n,A] less what each arm would have to fetch."""
        prices = self.prices.copy()
        prices[list(kept)] = 0.0
        costs = np.bincount(self.arm, prices[self.adapter], self.values.shape[1])
        served: Array = self.values - costs
        return served

    def _gains(self, kept: Sequence[int]) -> Array:
        """What each adapter [K] would add to F."""
        if not self.adapters:
            return np.zeros(0)
        served = self._served(kept)
        offers = served[:, self.arm] + self.prices[self.adapter]
        best = np.maximum.reduceat(offers, self.first, axis=1)
        gains: Array = np.maximum(best - served.max(axis=1, keepdims=True), 0).mean(axis=0) - self.swaps
        return gains
