"""How long a chat with a screenshot takes over HTTP, beside the noop application, in turns."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ray import serve
from rich.table import Table

from benchmarks.edge import instant, noop
from benchmarks.edge.traffic import Burst, Line, chat, screen
from benchmarks.reporting import Check
from cluster.settings import Settings

OURS: Final = "pointsman"
PATHS: Final = {OURS: "/v1/chat/completions", "noop": "/noop", "noop, one call": "/noop?calls=1"}
WORKERS: Final = (1, 8)
GOAL: Final = 1.5
_SCREENS: Final = 16
_FLOAT16: Final = 2


class Row(NamedTuple):
    """One application under so many clients."""

    name: str
    workers: int
    n: int
    p50_ms: float
    p99_ms: float
    per_s: float
    failed: int


async def measure(line: Line, settings: Settings, rounds: int, each: int) -> list[Row]:
    """`rounds` times `each` requests a client and application, taking turns; the noop is started beside the service."""
    bodies = [chat(f"Click the button number {number}.", screen(number)) for number in range(_SCREENS)]
    first = await line.post(PATHS[OURS], bodies[0])
    features = instant.engine(settings).feature_size * _FLOAT16
    beside = noop.application(features, instant.ANSWER, len(first.body), settings.server.max_ongoing)
    await asyncio.to_thread(serve.run, beside, name="noop", route_prefix="/noop")
    for path in PATHS.values():
        await line.burst(path, bodies, 2)
    return [row for workers in WORKERS for row in await _turns(line, bodies, workers, rounds, each)]


async def _turns(line: Line, bodies: Sequence[bytes], workers: int, rounds: int, each: int) -> list[Row]:
    bursts: dict[str, list[Burst]] = {name: [] for name in PATHS}
    for _ in range(rounds):
        for name, path in PATHS.items():
            sent = [bodies[number % len(bodies)] for number in range(workers * each)]
            bursts[name].append(await line.burst(path, sent, workers))
    return [_row(name, workers, several) for name, several in bursts.items()]


def _row(name: str, workers: int, bursts: Sequence[Burst]) -> Row:
    replies = [reply for burst in bursts for reply in burst.replies]
    whole = Burst(workers, sum(burst.seconds for burst in bursts), replies)
    failed = sum(reply.status != 200 for reply in replies)
    return Row(name, workers, len(replies), whole.ms(0.5), whole.ms(0.99), whole.rate, failed)


def table(rows: Sequence[Row]) -> Table:
    made = Table("", "clients", "n", "p50 ms", "p99 ms", "requests/s", title="HTTP", title_justify="left")
    for row in rows:
        cells = (str(row.n), f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", f"{row.per_s:.0f}")
        made.add_row(row.name, str(row.workers), *cells)
    return made


def checks(rows: Sequence[Row]) -> list[Check]:
    """The service's median beside that of the peer that makes as many calls."""
    found = []
    for workers in WORKERS:
        by_name: Mapping[str, Row] = {row.name: row for row in rows if row.workers == workers}
        ratio = by_name[OURS].p50_ms / by_name["noop"].p50_ms
        clients = "1 client" if workers == 1 else f"{workers} clients"
        found.append(Check(f"p50 / noop, {clients}", ratio, f"at most {GOAL}", ratio <= GOAL))
    failed = sum(row.failed for row in rows)
    return [*found, Check("requests that failed", failed, "0", failed == 0)]


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]
