"""Medians of interleaved repeats at one size."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.speed import contenders
from benchmarks.speed.contenders import DISCOUNT, HISTORY, Data
from policies.checks import Array
from policies.linucb import LinUCB
from policies.prior import LearningConfig

BATCH = 32
_CALLS = LearningConfig().refresh  # in a row, for each contender in its turn, after one that warms the caches
_SLOW = 20  # a call of MABWiser's update stands for so many turns of the others
_ASKED = 300

Task = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """Times in µs a call at K arms of d numbers, by contender.

    identical: share of contexts at which the choice is that of a solve from scratch, after rank-one updates at γ = 1,
    and after a refresh at γ < 1.  lagging: the same with up to m−1 updates since the refresh.  top_identical, proven:
    of the choices by top widths, the share that equals, and that is proven to equal, the choice by all widths.
    """

    arms: int
    d: int
    times: Mapping[str, float]
    identical: float
    lagging: float
    top_identical: float
    proven: float

    def raw(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measure(arms: int, d: int, repeats: int, *, peers: bool) -> Size:
    """One size; `repeats` turns of 8 calls a contender."""
    seen, more = contenders.data(arms, d, HISTORY * arms), contenders.data(arms, d, 4096, seed=1)
    ours = contenders.ours(arms, d, seen)
    all_widths = LinUCB(ours.posterior, contenders.config(all_widths=arms))
    fading = contenders.ours(arms, d, seen, DISCOUNT)
    tasks = _ours(ours, all_widths, fading, more)
    times = medians(tasks | (_peers(arms, d, seen, more) if peers else {}), repeats)
    X = contenders.data(arms, d, _ASKED, seed=2).X
    lagging = _share(fading, X)
    _refresh(fading)
    exact = all_widths.select(X)
    believed = contenders.believed(ours, X)
    return Size(
        arms,
        d,
        times,
        identical=min(_share(all_widths, X), _share(fading, X)),
        lagging=lagging,
        top_identical=float(np.mean(ours.select(X) == exact)),
        proven=float(np.mean(believed.proven)),
    )


def medians(tasks: Mapping[str, Task], repeats: int) -> dict[str, float]:
    """Median time in µs of a call, over turns of 8 calls in which all tasks alternate."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats):
        for name, task in tasks.items():
            slow = name == "mabwiser update"
            if not slow or turn % _SLOW == 0:
                times[name].append(_time(task, 1 if slow else _CALLS))
    return {name: float(np.median(taken)) for name, taken in times.items()}


def _time(task: Task, calls: int) -> float:
    if calls > 1:
        task()
    start = time.perf_counter_ns()
    for _ in range(calls):
        task()
    return (time.perf_counter_ns() - start) / calls / 1000


def _ours(ours: LinUCB, all_widths: LinUCB, fading: LinUCB, more: Data) -> dict[str, Task]:
    x, batch, decide = cycle(more.X), cycle(more.X.reshape(-1, BATCH, more.X.shape[1])), contenders.decide(ours)
    rewards, faded = _rewards(more), _rewards(_in_runs(more))
    return {
        "ours": lambda: ours.select(next(x)),
        "ours batch": lambda: ours.select(next(batch)),
        "ours decide": lambda: decide(next(x)),
        "ours all widths": lambda: all_widths.select(next(x)),
        "ours update": lambda: ours.partial_fit(*next(rewards)),
        "ours fading update": lambda: fading.partial_fit(*next(faded)),
    }


def _peers(arms: int, d: int, seen: Data, more: Data) -> dict[str, Task]:
    pareto, mab = contenders.paretobandit(arms, d, seen), contenders.mabwiser(arms, seen)
    forgetting = contenders.paretobandit(arms, d, seen, DISCOUNT)
    x, rewards, faded = cycle(more.X), _rewards(more), _rewards(_in_runs(more))

    def update() -> None:
        context, arm, reward = next(rewards)
        pareto.update(arm, context, reward)

    def fade() -> None:
        context, arm, reward = next(faded)
        forgetting.update(arm, context, reward)

    def fit() -> None:
        context, arm, reward = next(rewards)
        mab.partial_fit([arm], [reward], [context])

    return {
        "paretobandit": lambda: pareto.select_arm(next(x)),
        "mabwiser": lambda: mab.predict([next(x)]),
        "paretobandit update": update,
        "paretobandit fading update": fade,
        "mabwiser update": fit,
    }


def _rewards(more: Data) -> Iterator[tuple[Array, str, float]]:
    return cycle(list(zip(more.X, map(str, more.arms.tolist()), more.rewards.tolist(), strict=True)))


def _in_runs(more: Data) -> Data:
    """The same with all calls of a turn on one arm: so with γ < 1 one call of each turn computes a factor anew."""
    return more._replace(arms=np.repeat(more.arms[: len(more.arms) // _CALLS], _CALLS))


def _share(policy: LinUCB, X: Array) -> float:
    return float(np.mean(policy.select(X) == contenders.from_scratch(policy, X)))


def _refresh(policy: LinUCB) -> None:
    for arm in policy.posterior.arms:
        policy.posterior.put(arm, policy.posterior.statistics(arm))
