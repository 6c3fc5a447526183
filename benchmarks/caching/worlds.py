"""The outcome table with as many adapters as are asked for, and traces of requests over it."""

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np

from benchmarks.worlds import World, embedded
from examples.miniwob.paths import ADAPTERS
from policies.caching.plan import Stock
from policies.checks import Array, Mask, Rows
from policies.context import ContextMap
from policies.training.artifact import fit_context_map
from policies.training.classifier import ClassifierConfig, train_classifier
from services.adapters.registry import Registry

Trace = Literal["zipf", "bursty", "drifting"]
TRACES: Final[tuple[Trace, ...]] = ("zipf", "bursty", "drifting")
MEDIAN_MS: Final = 500.0
"""What the median page-in takes; at the service's `router.cost_per_ms` it is worth 0.05 reward."""
NOISE: Final = 0.05
"""Share of a copy's outcomes that are the opposite of its original's."""
_ZIPF: Final = 1.0
_BURST: Final = 10
_LABELLED: Final = 60
"""Episodes of each family that the router is trained on."""
_DRIFTS: Final = 5
_PAGE: Final = 8


@dataclass(frozen=True, eq=False)
class Fleet:
    """Arms over the recorded episodes: base, the trained adapters, and copies of them up to `adapters`.

    R [n,1+A] are rewards, rates [families,1+A] their means, family [n] the row of each episode in it. `contexts` is a
    router that the product trained on episodes which are never requested: `requested` [n] are the others.
    """

    world: World
    contexts: ContextMap
    requested: Mask
    arms: tuple[str, ...]
    stock: dict[str, Stock]
    page_in_ms: dict[str, float]
    R: Array
    rates: Array
    family: Rows

    @property
    def adapters(self) -> tuple[str, ...]:
        """All arms but the base."""
        return self.arms[1:]

    def room(self, share: float) -> float:
        """Pages of rank rows for this share of all adapters, and for the largest one at least."""
        sizes = [stock.size for stock in self.stock.values()]
        return float(max(round(share * sum(sizes)), *sizes))


@cache
def fleet(adapters: int, cost_per_ms: float, noise: float = NOISE) -> Fleet:
    """So many adapters: the trained ones first, then copies in turn, each with outcomes of its own."""
    world, registry = embedded(), Registry(ADAPTERS)
    trained = world.arms[1:]
    rng = np.random.default_rng(adapters)
    originals = {
        name if number < len(trained) else f"{name}.{number // len(trained)}": name
        for number, name in ((number, trained[number % len(trained)]) for number in range(adapters))
    }
    columns = [world.R[:, 0]]
    for name, original in originals.items():
        outcomes = world.R[:, world.arms.index(original)]
        flipped = rng.random(len(outcomes)) < (0.0 if name == original else noise)
        columns.append(np.where(flipped, 1 - outcomes, outcomes))
    R = np.stack(columns, axis=1)
    names, family = np.unique(world.families, return_inverse=True)
    aside = np.concatenate([rng.permutation(np.flatnonzero(family == f))[:_LABELLED] for f in range(len(names))])
    arms = ("base", *originals)
    best = [arms[k] for k in np.stack([R[aside][family[aside] == f].mean(axis=0) for f in range(len(names))]).argmax(1)]
    contexts = _trained(world.H[aside], [best[f] for f in family[aside]], arms, R[aside])
    requested = np.ones(len(R), dtype=np.bool_)
    requested[aside] = False
    rates = np.stack([R[(family == f) & requested].mean(axis=0) for f in range(len(names))])
    typical = float(np.median([registry[original].size for original in originals.values()]))
    ms = {name: MEDIAN_MS * (1 + registry[original].size / typical) / 2 for name, original in originals.items()}
    pages = {name: -(-registry[original].rank // _PAGE) for name, original in originals.items()}
    stock = {name: Stock(pages[name], cost_per_ms * ms[name]) for name in originals}
    return Fleet(world, contexts, requested, arms, stock, ms, R, rates, family)


def _trained(H: Array, labels: list[str], arms: tuple[str, ...], outcomes: Array) -> ContextMap:
    config = ClassifierConfig(seed=0)
    mlp, _ = train_classifier(H, labels, config)
    return fit_context_map(mlp, H, labels, config, outcomes=outcomes, outcome_arms=arms)


def trace(kind: Trace, of: Fleet, n: int, seed: int) -> Rows:
    """Rows [n] of the episodes that are requested one after the other.

    Families are as frequent as Zipf says, in an order drawn for the seed: each request by itself, in bursts of one
    family, or with an order that changes at regular times.
    """
    rng = np.random.default_rng([seed, TRACES.index(kind)])
    count = len(of.rates)
    weights = 1 / np.arange(1, count + 1) ** _ZIPF
    weights /= weights.sum()
    orders = np.stack([rng.permutation(count) for _ in range(_DRIFTS if kind == "drifting" else 1)])
    order = orders[np.arange(n) * len(orders) // n]
    ranks = rng.choice(count, size=n, p=weights)
    if kind == "bursty":
        starts = rng.random(n) < 1 / _BURST
        starts[0] = True
        ranks = ranks[np.maximum.accumulate(np.where(starts, np.arange(n), 0))]
    families = order[np.arange(n), ranks]
    members = [np.flatnonzero((of.family == f) & of.requested) for f in range(count)]
    return np.array([rng.choice(members[f]) for f in families])
