"""The outcome table with as many adapters as are asked for, and traces of requests over it."""

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, NamedTuple

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
"""How often an adapter's answer comes out as the opposite of the recorded one, drawn anew for every request."""
_ZIPF: Final = 1.0
_BURST: Final = 10
_DIRECTIONS: Final = 2
"""Principal directions of the features in a context. Every family is known to this router, so its hidden layer tells
them apart; with the usual 16 all learners, the baseline too, do worse: a screen's other traits are noise to them."""
_LABELLED: Final = 60
"""Episodes of each family that the router is trained on."""
_DRIFTS: Final = 5
_PAGE: Final = 8


class Requests(NamedTuple):
    """One after the other: the row of each one's episode, its family, and the reward of every arm R [n,1+A]."""

    rows: Rows
    family: Rows
    R: Array


@dataclass(frozen=True, eq=False)
class Fleet:
    """Arms over the recorded episodes: base, the trained adapters, and copies of them up to `adapters`.

    success [n,1+A] is how likely each arm is to succeed at each episode, family [n] the row of each episode in rates
    [families,1+A], their means over the requested episodes: those that `contexts`, a router that the product trained,
    never saw (`requested` [n]).
    """

    world: World
    contexts: ContextMap
    requested: Mask
    arms: tuple[str, ...]
    stock: dict[str, Stock]
    page_in_ms: dict[str, float]
    success: Array
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
def fleet(adapters: int, cost_per_ms: float) -> Fleet:
    """So many adapters: the trained ones first, then copies in turn, as good as the originals."""
    world, registry = embedded(), Registry(ADAPTERS)
    trained = world.arms[1:]
    rng = np.random.default_rng(adapters)
    originals = {
        name if number < len(trained) else f"{name}.{number // len(trained)}": name
        for number, name in ((number, trained[number % len(trained)]) for number in range(adapters))
    }
    success = world.R[:, [0, *(world.arms.index(original) for original in originals.values())]]
    success[:, 1:] += NOISE * (1 - 2 * success[:, 1:])
    names, family = np.unique(world.families, return_inverse=True)
    aside = np.concatenate([rng.permutation(np.flatnonzero(family == f))[:_LABELLED] for f in range(len(names))])
    arms = ("base", *originals)
    seen = _tried(success[aside], rng)
    best = [arms[k] for k in np.stack([seen[family[aside] == f].mean(axis=0) for f in range(len(names))]).argmax(1)]
    contexts = _trained(world.H[aside], [best[f] for f in family[aside]], arms, seen)
    requested = np.ones(len(success), dtype=np.bool_)
    requested[aside] = False
    rates = np.stack([success[(family == f) & requested].mean(axis=0) for f in range(len(names))])
    typical = float(np.median([registry[original].size for original in originals.values()]))
    ms = {name: MEDIAN_MS * (1 + registry[original].size / typical) / 2 for name, original in originals.items()}
    pages = {name: -(-registry[original].rank // _PAGE) for name, original in originals.items()}
    stock = {name: Stock(pages[name], cost_per_ms * ms[name]) for name in originals}
    return Fleet(world, contexts, requested, arms, stock, ms, success, rates, family)


def _tried(success: Array, rng: np.random.Generator) -> Array:
    """Rewards of one try each."""
    return (rng.random(success.shape) < success).astype(np.float64)


def _trained(H: Array, labels: list[str], arms: tuple[str, ...], outcomes: Array) -> ContextMap:
    config = ClassifierConfig(seed=0)
    mlp, _ = train_classifier(H, labels, config)
    return fit_context_map(mlp, H, labels, config, outcomes=outcomes, outcome_arms=arms, pca=_DIRECTIONS)


def trace(kind: Trace, of: Fleet, n: int, seed: int) -> Requests:
    """What is requested, n times.

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
    rows = np.array([rng.choice(members[f]) for f in families])
    return Requests(rows, families, _tried(of.success[rows], rng))
