"""What the service costs without a model: its HTTP edge, its log, its queues, its memory over time.

The product runs on Ray Serve with an engine that answers at once (`benchmarks/edge/instant.py`), beside a noop Serve
application that makes the same calls with the same bytes (`benchmarks/edge/noop.py`); the two are asked in turns. Then
come rewards by the batch, more requests than there is room for, and, in a service whose windows are so short that what
is old leaves Redis meanwhile, requests at a steady rate for as long as `--soak` says.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.edge import http, instant, pressure, rewards, soak
from benchmarks.edge.processes import replicas
from benchmarks.edge.traffic import Line
from benchmarks.reporting import Check, report
from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from services.launch import running

_ONGOING, _QUEUED = 16, 16
_SHORT: Final = {"store": {"hot_s": 60.0, "segment": 500, "retention_s": 120.0}, "learner": {"reward_window_s": 60.0}}
console = Console()


@contextmanager
def _serving(**groups: dict[str, Any]) -> Iterator[tuple[Settings, Line, int]]:
    """The service with an instant engine: its settings, connections to it, and its Redis' process id."""
    with tempfile.TemporaryDirectory(prefix="pointsman-load-") as folder, RedisServer(Path(folder) / "redis") as redis:
        store = {"url": redis.url, "data_dir": folder, **groups.pop("store", {})}
        server = {"port": free_port(), "max_ongoing": _ONGOING, "max_queued": _QUEUED}
        settings = Settings.model_validate({"server": server, "store": store, **groups})
        with running(settings, engine=instant.engine) as url:
            yield settings, Line(url, 1024), redis.pid


async def _cost(line: Line, settings: Settings, *, quick: bool) -> tuple[list[Check], dict[str, Any]]:
    rounds, each, n, seconds = (5, 12, 5000, 4.0) if quick else (20, 25, 20000, 15.0)
    rows = await http.measure(line, settings, rounds, each)
    console.print(http.table(rows))
    posted = await rewards.measure(line, settings, n)
    pressed = await pressure.measure(line, settings, seconds)
    await line.close()
    checks = [*http.checks(rows), *rewards.checks(posted), *pressure.checks(pressed)]
    return checks, {"http": http.figures(rows), "rewards": posted._asdict(), "pressure": pressed._asdict()}


async def _grow(line: Line, redis: int, minutes: float, rate: float) -> tuple[list[Check], dict[str, Any]]:
    processes = {name: min(replicas(name)) for name in ("Router", "Model", "Learner")} | {"Redis": redis}
    n, failed, slopes = await soak.soak(line, processes, 60 * minutes, rate)
    await line.close()
    console.print(soak.table(slopes))
    return soak.checks(failed), {"soak": {"requests": n, "minutes": minutes, "slopes": soak.figures(slopes)}}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything, and no soak.")] = False,
    minutes: Annotated[float | None, typer.Option("--soak", min=0, help="Minutes (30, or 0 with --quick).")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second while soaking.")] = 8.0,
    soak_only: Annotated[bool, typer.Option("--soak-only", help="Measure nothing but memory.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the raw figures here.")] = None,
) -> None:
    """Measure the service without a model."""
    soaking = (0.0 if quick else 30.0) if minutes is None else minutes
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    if not soak_only:
        with _serving() as (settings, line, _):
            found, measured = asyncio.run(_cost(line, settings, quick=quick))
        checks, figures = [*checks, *found], {**figures, **measured}
    if soaking:
        with _serving(**_SHORT) as (_, line, redis):
            found, measured = asyncio.run(_grow(line, redis, soaking, rate))
        checks, figures = [*checks, *found], {**figures, **measured}
    report("load", Table(show_header=False, box=None), checks, json_file, **figures)


if __name__ == "__main__":
    typer.run(main)
