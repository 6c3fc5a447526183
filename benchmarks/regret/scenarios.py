"""The worlds (a) to (h) of the benchmark, each a function from a seed to a trial."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Final, NamedTuple

import numpy as np

from benchmarks.regret.synthetic import linear
from benchmarks.regret.trial import Labelled, Steps, Trial
from benchmarks.worlds import World, embedded
from policies.checks import Array, Mask

_DELAY: Final = 30
_EPISODE: Final = 10
_CLIENTS: Final = 20
_ASIDE: Final = 30  # episodes of each known family that are kNN's labelled examples, and never requests


class _Table(NamedTuple):
    """The outcome table, with what kNN starts from taken out: rows by family, success rates [families,K]."""

    world: World
    labelled: Labelled
    rows: list[Steps]
    rates: Array
    known: Mask
    newer: list[int]


@cache
def _table() -> _Table:
    world = embedded()
    X, _ = world.mapped
    families = sorted(set(world.families))
    rows = [np.flatnonzero(np.array(world.families) == family) for family in families]
    known = np.array([bool(world.known[mine[0]]) for mine in rows])
    rng = np.random.default_rng(0)
    rows = [rng.permutation(mine) for mine in rows]
    aside = [mine[:_ASIDE] for mine, is_known in zip(rows, known, strict=True) if is_known]
    names = [families[i] for i in np.flatnonzero(known)]
    labels = np.repeat([world.arms.index(name) for name in names], _ASIDE)
    kept = [mine[_ASIDE:] if is_known else mine for mine, is_known in zip(rows, known, strict=True)]
    rates = np.stack([world.R[mine].mean(axis=0) for mine in kept])
    unknown = [k for k, arm in enumerate(world.arms) if arm not in world.contexts.statistics.arms]
    return _Table(world, Labelled(X[np.concatenate(aside)], labels), kept, rates, known, unknown)


def table(seed: int, steps: int, run: int = 1, delay: int = _DELAY) -> Trial:
    """(a) Requests drawn from the outcome table, every family as often; `run` requests in a row are one episode."""
    world, labelled, rows, rates, known, _ = _table()
    rng = np.random.default_rng([seed, 1])
    episode = np.arange(steps) // run
    family = rng.integers(len(rows), size=int(episode[-1]) + 1)[episode]
    chosen = np.array([rng.choice(rows[each]) for each in family])
    X, G = world.mapped
    return Trial(
        seed=seed,
        arms=world.arms,
        X=X[chosen],
        G=G[chosen],
        mlp_arms=world.contexts.arms,
        success=world.R[chosen],
        observed=world.R[chosen],
        oracle=world.R[chosen, rates.argmax(axis=1)[family]],
        family=family,
        known=known[family],
        prior=world.contexts.statistics,
        labelled=labelled,
        episode=episode,
        source=rng.integers(_CLIENTS, size=steps),
        arrives=np.zeros(len(world.arms), dtype=np.int64),
        delay=delay,
    )


def drift(seed: int, steps: int, told: bool) -> Trial:
    """(c) Half-way the arm whose family has the best second choice stops working; it is repaired at three quarters.

    The repair is a new version, which is always announced; `told` says whether the bad one was announced too.
    """
    steps = steps * 6 // 5
    trial, rates = table(seed, steps, delay=0), _table().rates
    bad, repaired = steps // 2, 3 * steps // 4
    broken = _replaceable()
    success, later = trial.success.copy(), np.arange(steps)
    success[bad:repaired, broken] = 0.0
    without = rates.copy()
    without[:, broken] = 0.0
    best = np.where((later >= bad) & (later < repaired), without.argmax(1)[trial.family], rates.argmax(1)[trial.family])
    releases = {repaired: (broken,)} | ({bad: (broken,)} if told else {})
    return replace(
        trial,
        success=success,
        observed=success,
        oracle=success[later, best],
        releases=releases,
        changes=(bad, repaired),
    )


def _replaceable() -> int:
    """The arm that is best for a known family whose second-best arm is the best among all such."""
    _, _, _, rates, known, _ = _table()
    family = max(np.flatnonzero(known).tolist(), key=lambda each: np.sort(rates[each])[-2])
    return int(rates[family].argmax())


def newcomers(seed: int, steps: int) -> Trial:
    """(e) The arms that the supervised router never saw arrive one after the other."""
    trial, (*_, rates, _, newer) = table(seed, steps), _table()
    arrives = trial.arrives.copy()
    arrives[newer] = np.linspace(0.2, 0.5, len(newer)) * steps
    now = np.arange(steps)
    present = arrives <= now[:, np.newaxis]
    best = np.where(present, rates[trial.family], -1.0).argmax(axis=1)
    changes = tuple(sorted(arrives[newer].tolist()))
    return replace(trial, arrives=arrives, oracle=trial.success[now, best], changes=changes)


def flipped(seed: int, steps: int, share: float = 0.1) -> Trial:
    """(f) A share of the rewards says the opposite."""
    trial = table(seed, steps)
    wrong = np.random.default_rng([seed, 2]).random(trial.n) < share
    return replace(trial, observed=np.where(wrong[:, np.newaxis], 1 - trial.success, trial.success))


def nonsense(seed: int, steps: int) -> Trial:
    """(g) One of the clients, a twentieth of the traffic, always posts the opposite of what happened."""
    trial = table(seed, steps)
    wrong = trial.source == 0
    return replace(trial, observed=np.where(wrong[:, np.newaxis], 1 - trial.success, trial.success))


SCENARIOS: Final[dict[str, Callable[[int, int], Trial]]] = {
    "a table": table,
    "b linear": linear,
    "c drift told": partial(drift, told=True),
    "c drift silent": partial(drift, told=False),
    "d delay 0": partial(table, delay=0),
    "d delay 50": partial(table, delay=50),
    "d delay 500": partial(table, delay=500),
    "e new arms": newcomers,
    "f flipped": flipped,
    "g nonsense": nonsense,
    "h episodes": partial(table, run=_EPISODE),
}
"""By name, functions of a seed and a number of requests."""
