"""Every fault under load, on bare processes and on a Ray cluster, and what it cost: one row each.

`--only learner` is the storm of kills of Redis and the Learner alone; `--with-serve` adds kills of a service's Learner,
Routers and Models on Ray Serve. `--quick` leaves Ray out.
"""

import asyncio
import logging
import tempfile
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.chaos.faults import ON_PROCESSES, ON_SERVE, STORM
from benchmarks.chaos.processes import Processes
from benchmarks.chaos.service import Service
from benchmarks.chaos.stage import Fault, Name, Row, suffer
from benchmarks.chaos.table import checks, table
from benchmarks.reporting import Check, report

Plan = Sequence[tuple[Fault, int]]
_REPLICAS = ("kill-learner", "kill-router", "kill-model")


def main(
    only: Annotated[Name | None, typer.Option(help="One fault, wherever it can happen.")] = None,
    on: Annotated[Literal["processes", "Serve"] | None, typer.Option(help="Only there.")] = None,
    kills: Annotated[int, typer.Option(min=1, help="Kills of Redis and the Learner in their storm.")] = 60,
    each: Annotated[int, typer.Option(min=1, help="Times of every fault on Ray Serve.")] = 2,
    seed: Annotated[int, typer.Option(help="Of moments, victims and traffic.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="6 kills in the storm, without Ray unless a fault is named.")
    ] = False,
    with_serve: Annotated[bool, typer.Option("--with-serve", help="With `--only learner`: replicas, 4 each.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the raw figures here.")] = None,
) -> None:
    """Inject faults under load, and check that nothing is lost or doubled and that all is well again in time."""
    on_processes, on_serve = plans(only, 6 if quick else kills, 1 if quick else each, quick=quick)
    if with_serve and only == STORM.name:
        on_serve = [(fault, 1 if quick else 4) for fault in ON_SERVE if fault.name in _REPLICAS]
    logging.getLogger("cluster").setLevel(logging.ERROR)  # that Redis ends is the point
    began, rows, found = time.monotonic(), list[Row](), list[Check]()
    with tempfile.TemporaryDirectory() as directory, Progress(console=Console(stderr=True)) as progress:
        for stage, plan in ((Processes, on_processes), (Service, on_serve)):
            if plan and on in (None, stage.where):
                bar = progress.add_task(stage.where, total=sum(times for _, times in plan))
                try:
                    with stage(Path(directory) / stage.where).running() as here:
                        asyncio.run(suffer(here, plan, seed, rows, partial(progress.advance, bar)))
                        found += here.checks()
                except Exception:  # what was found before is reported all the same
                    traceback.print_exc()
                    found.append(Check(f"all faults on {stage.where}", 0, "it is whole after each", False))
    title = f"{len(rows)} faults, {time.monotonic() - began:.0f} s"
    figures: dict[str, Any] = {"rows": [row._asdict() | {"counts": row.counts._asdict()} for row in rows]}
    report(title, table(rows), [*checks(rows), *found], json_file, **figures)


def plans(only: Name | None, kills: int, each: int, *, quick: bool) -> tuple[Plan, Plan]:
    """Which faults happen how often, on processes and on Serve."""
    on_processes = [(fault, kills if fault is STORM else 1) for fault in ON_PROCESSES if only in (None, fault.name)]
    on_serve = [(fault, each) for fault in ON_SERVE if only in (None, fault.name)]
    return on_processes, [] if quick and only is None else on_serve


if __name__ == "__main__":
    typer.run(main)
