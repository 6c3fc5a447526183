"""Memory over time: what each process holds of its own while requests and rewards come at a steady rate."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.edge.traffic import Line, chat, screen
from benchmarks.reporting import Check

_WARM_UP: Final = 0.25
"""Share of the time in which caches fill and the first events are sealed; it does not count."""
_BLOCKS: Final = 10
_T: Final = 2.306
"""0.975 quantile of Student's t with `_BLOCKS` - 2 degrees of freedom."""
_REWARDED_AFTER: Final = 50
_SCREENS: Final = 64


class Slope(NamedTuple):
    """Growth of a process' own memory in MiB/h, with its 95% interval, and what it held at the end in MiB."""

    process: str
    mib_h: float
    low: float
    high: float
    mib: float


async def soak(line: Line, processes: Mapping[str, int], seconds: float, rate: float) -> tuple[int, int, list[Slope]]:
    """Requests asked, those that failed, and how each of the processes (name to id) grew meanwhile."""
    asked = asyncio.create_task(_ask(line, seconds, rate))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    while not asked.done():
        for name, pid in processes.items():
            samples[name].append((time.monotonic(), own_mib(pid)))
        await asyncio.wait([asked], timeout=max(1.0, seconds / 600))
    n, failed = await asked
    return n, failed, [slope(name, series) for name, series in samples.items()]


async def _ask(line: Line, seconds: float, rate: float) -> tuple[int, int]:
    """Send requests when they are due, whether or not earlier ones are answered, and their rewards later."""
    screens = [screen(number) for number in range(_SCREENS)]
    began, n, failed, running, served = time.monotonic(), 0, 0, set[asyncio.Task[None]](), list[str]()

    async def one(number: int) -> None:
        nonlocal failed
        body = chat(f"Click the button number {number}.", screens[number % _SCREENS])
        reply = await line.post("/v1/chat/completions", body)
        if reply.status != 200:
            failed += 1
            return
        served.append(reply.json["id"])
        if len(served) >= 2 * _REWARDED_AFTER:
            items = [{"decision_id": id_, "reward": float(number % 2)} for id_ in served[:_REWARDED_AFTER]]
            del served[:_REWARDED_AFTER]
            said = await line.post("/v1/feedback", json.dumps(items).encode())
            failed += said.status != 200

    while (due := began + n / rate) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(n))
        running.add(task)
        task.add_done_callback(running.discard)
        n += 1
    await asyncio.gather(*running)
    return n, failed


def own_mib(pid: int) -> float:
    """Anonymous resident memory of a process in MiB: Ray's object store, which is shared, is left out."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def slope(process: str, samples: Sequence[tuple[float, float]]) -> Slope:
    """A line through the medians of equal blocks of samples (s, MiB): neighbours resemble each other, blocks less."""
    data = np.array(samples[int(_WARM_UP * len(samples)) :])
    blocks = np.array([np.median(block, axis=0) for block in np.array_split(data, min(_BLOCKS, len(data)))])
    hours, mib = blocks[:, 0] / 3600, blocks[:, 1]
    centred = hours - hours.mean()
    spread = float(centred @ centred)
    rise = float(centred @ mib) / spread
    rest = mib - mib.mean() - rise * centred
    error = _T * float(np.sqrt(rest @ rest / (len(blocks) - 2) / spread))
    return Slope(process, rise, rise - error, rise + error, float(mib[-1]))


def table(slopes: Sequence[Slope]) -> Table:
    made = Table("process", "MiB", "MiB/h", "95%", title="Memory", title_justify="left")
    for each in slopes:
        made.add_row(each.process, f"{each.mib:.0f}", f"{each.mib_h:+.1f}", f"{each.low:+.1f} … {each.high:+.1f}")
    return made


def figures(slopes: Sequence[Slope]) -> list[dict[str, Any]]:
    return [each._asdict() for each in slopes]


def checks(failed: int) -> list[Check]:
    return [Check("requests that failed while soaking", failed, "0", failed == 0)]
