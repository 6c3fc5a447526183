"""What stays resident and who serves, together: paging LoRAs under the product's own LinUCB, beside LRU, LFU, GDSF.

`python -m benchmarks.cache --json FILE` plays traces of requests over the outcome table with 15 and 200 adapters, and
room for a quarter and a tenth of them. Total utility is the reward less what page-ins cost, all of them.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer
from rich.progress import track
from rich.table import Table

from benchmarks.caching.oracle import oracle
from benchmarks.caching.routing import Served, informed, learner, outcome, route, shelf
from benchmarks.caching.worlds import MEDIAN_MS, TRACES, Trace, fleet, trace
from benchmarks.reporting import Check, report
from policies import PolicyConfig
from policies.caching.epochs import EpochConfig, Planner
from policies.prior import LearningConfig

SEEDS, QUICK_SEEDS = 20, 2
REQUESTS, QUICK_REQUESTS = 3000, 1000
FLEETS: Final = (15, 200)
SHARES: Final = (0.25, 0.1)
EXACT: Final = 15
"""Adapters up to which the clairvoyant optimum is computed."""
CONFIG: Final = PolicyConfig(alpha=0.02)
BLIND: Final = LearningConfig()
AWARE: Final = LearningConfig(prior_weight=250.0)
"""α and the prior's weight are those that did best on other seeds, for who pages blindly and for who does not; with the
epochs below, they are all that is not as shipped. See docs/decisions/0019."""
FIXED: Final = EpochConfig(first=48, longest=48)
DOUBLING: Final = EpochConfig(first=2, longest=8)
KEEPERS: Final = ("lru", "lfu", "gdsf", "static")
BASELINE, OURS, ORACLE, CLAIRVOYANT = "blind lru", "polar_plus", "full information", "clairvoyant"
KNOWING: Final = (("lru", ()), ("gdsf", ()), (OURS, (48, 48.0)), (OURS, (200, 200.0)), (OURS, (200, 64.0, True)))
"""How full information keeps: a policy, and what its plans are for. The best of these counts."""
_GOAL, _LEAST = 0.6, 0.5
_RESAMPLES: Final = 10_000

app = typer.Typer(add_completion=False)


class Cell(NamedTuple):
    """One setting."""

    trace: Trace
    adapters: int
    share: float


class Share(NamedTuple):
    """What part of a distance is closed, and its 95% interval over seeds."""

    closed: float
    low: float
    high: float


@app.command()
def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    quick: Annotated[bool, typer.Option(help=f"{QUICK_SEEDS} seeds of {QUICK_REQUESTS} requests.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
) -> None:
    """Compare residency policies under cache-blind and cache-aware LinUCB, and with full information."""
    seeds, n = (QUICK_SEEDS, QUICK_REQUESTS) if quick else (SEEDS, REQUESTS)
    for adapters in FLEETS:
        fleet(adapters, CONFIG.cost_per_ms)  # trained once, before the processes fork
    jobs = [(kind, adapters, seed, n) for kind, adapters in product(TRACES, FLEETS) for seed in range(seeds)]
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        played = list(track(pool.map(play, *zip(*jobs, strict=True)), "runs", total=len(jobs)))
    runs: dict[Cell, dict[str, list[Served]]] = {}
    for found in played:
        for cell, by_name in found.items():
            for name, served in by_name.items():
                runs.setdefault(cell, {}).setdefault(name, []).append(served)
    report("The adapter cache", _table(runs), checks(runs), json_file, **_figures(runs), seeds=seeds, requests=n)


def play(kind: Trace, adapters: int, seed: int, n: int) -> dict[Cell, dict[str, Served]]:
    """Every way of keeping and choosing, on one trace, for each room."""
    of = fleet(adapters, CONFIG.cost_per_ms)
    requests = trace(kind, of, n, seed)
    blind = route(of, requests, learner(of, CONFIG, BLIND), seed)
    found: dict[Cell, dict[str, Served]] = {}
    for share in SHARES:
        room = of.room(share)
        by_name = found[Cell(kind, adapters, share)] = {}
        for policy in KEEPERS:
            on = shelf(of, room, policy, requests)
            for arm in blind:
                on.serve(arm)
            by_name[f"blind {policy}"] = outcome(of, requests, blind, on)
            on = shelf(of, room, policy, requests)
            arms = route(of, requests, learner(of, CONFIG, AWARE), seed, on)
            by_name[f"aware {policy}"] = outcome(of, requests, arms, on)
        for policy, epochs in (("polar", FIXED), (OURS, DOUBLING)):
            on = shelf(of, room, policy, requests)
            arms = route(of, requests, learner(of, CONFIG, AWARE), seed, on, Planner(epochs))
            by_name[policy] = outcome(of, requests, arms, on)
        knowing = []
        for policy, controller in KNOWING:
            on = shelf(of, room, policy, requests)
            knowing.append(outcome(of, requests, informed(of, requests, on, *controller), on))
        by_name[ORACLE] = max(knowing, key=lambda served: served.utility)
        if adapters <= EXACT:
            best = oracle(of.rates, requests.family, of.stock, room)
            reward = float(of.success[requests.rows, best.arms].mean())
            by_name[CLAIRVOYANT] = Served(reward, best.paid / n, np.nan, np.nan)
    return found


def closed(cells: Sequence[dict[str, list[Served]]], name: str, goal: str = ORACLE) -> Share:
    """The part of the distance from the baseline to the oracle that `name` closes, over cells of the same seeds."""
    gain, distance = (
        np.mean([[s.utility for s in c[of]] for c in cells], axis=0)
        - np.mean([[s.utility for s in c[BASELINE]] for c in cells], axis=0)
        for of in (name, goal)
    )
    drawn = np.random.default_rng(0).integers(len(gain), size=(_RESAMPLES, len(gain)))
    low, high = np.quantile(gain[drawn].mean(axis=1) / distance[drawn].mean(axis=1), [0.025, 0.975])
    return Share(float(gain.mean() / distance.mean()), float(low), float(high))


def checks(runs: dict[Cell, dict[str, list[Served]]]) -> list[Check]:
    """For each trace, over both fleets and both rooms."""
    found = []
    for kind in TRACES:
        share = closed([by_name for cell, by_name in runs.items() if cell.trace == kind], OURS)
        found.append(Check(f"{kind}: distance closed", share.closed, f"≥ {_GOAL}", share.closed >= _GOAL))
        found.append(Check(f"{kind}: its interval's lower end", share.low, f"> {_LEAST}", share.low > _LEAST))
    return found


def _figures(runs: dict[Cell, dict[str, list[Served]]]) -> dict[str, Any]:
    cells = []
    for cell, by_name in runs.items():
        means = {
            name: dict(zip(Served._fields, np.mean(of, axis=0).tolist(), strict=True)) for name, of in by_name.items()
        }
        parts = {name: closed([by_name], name)._asdict() for name in by_name}
        cells.append(cell._asdict() | {"policies": means, "closed": parts})
    return {
        "alpha": CONFIG.alpha,
        "prior_weight": {"blind": BLIND.prior_weight, "aware": AWARE.prior_weight},
        "median_page_in_reward": MEDIAN_MS * CONFIG.cost_per_ms,
        "cells": cells,
    }


def _table(runs: dict[Cell, dict[str, list[Served]]]) -> Table:
    title = "a request: utility = reward − paging; hits beside those of Belady's MIN on the same requests"
    table = Table("", "utility", "reward", "paging", "hits", "MIN", "closed", title=title)
    for cell, by_name in runs.items():
        table.add_section()
        table.add_row(f"[bold]{cell.trace}, {cell.adapters} adapters, room for {cell.share:.0%}")
        for name, of in by_name.items():
            reward, paid, hits, most = np.mean(of, axis=0)
            share = closed([by_name], name)
            figures = (f"{reward - paid:.4f}", f"{reward:.4f}", f"{paid:.4f}", f"{hits:.3f}", f"{most:.3f}")
            table.add_row(name, *figures, f"{share.closed:+.2f} [{share.low:+.2f}, {share.high:+.2f}]")
    return table


if __name__ == "__main__":
    app()
