"""`make demo ARGS=--live`: the story in real Chromium, on seeds that nobody has recorded."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.reporting import Check, report
from examples.miniwob.comparison import LAST, line
from examples.miniwob.families import NEWER
from examples.miniwob.live import LiveTask, Played, fresh, play
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.progress import SuccessBar
from examples.miniwob.serving import Service
from examples.miniwob.story import ALL, KNOWN, REGRESSED, regressing
from examples.miniwob.traffic import Agents

QUICK, FULL = 160, 600
_PLAYERS = 4


def tasks(families: list[str], n: int, seed: int) -> list[LiveTask]:
    """A quarter of the n episodes over known families, the rest over all; the second half is after the swap."""
    known, quarter = [family for family in families if family not in NEWER], n // 4
    return fresh({KNOWN: (known, quarter), ALL: (families, quarter), REGRESSED: (families, n - 2 * quarter)}, seed)


def run(service: Service, n: int, seed: int, json_file: Path | None) -> None:
    """Play n episodes and report; SystemExit(1) where a promise is not kept."""
    started = time.monotonic()
    table = Outcomes.load()
    adapter = regressing(table)
    played, feedback = asyncio.run(_drive(service, tasks(sorted(table.families), n, seed), adapter))
    seconds = round(time.monotonic() - started, 1)
    steps = sum(len(one.arms) for one in played)
    state = service.settled(steps)
    success = [one.success for one in played]
    figures: dict[str, Any] = {
        "n": len(played),
        "steps": steps,
        "seconds": seconds,
        "feedback": feedback,
        "matured": sum(arm["matured"] for arm in state["arms"]),
        "replay": service.replayed(),
        "routed": line(success)._asdict(),
        "regressing": adapter,
    }
    rate = f"success of the last {LAST}: {line(success).last_hundred:.3f}"
    title = f"{len(played)} live episodes, {steps} steps, in {seconds} s; {rate}"
    report(title, _by_family(played), checks(figures), json_file, **figures)


async def _drive(service: Service, todo: list[LiveTask], adapter: str) -> tuple[list[Played], dict[str, int]]:
    agents = Agents(service.url, concurrency=_PLAYERS, delay=0)
    swap = [task.phase for task in todo].index(REGRESSED)

    async def replace() -> None:
        await asyncio.to_thread(service.replace, adapter)

    try:
        with SuccessBar(len(todo)) as progress:
            played = await play(todo, agents, _PLAYERS, lambda task, ok: progress.add(task.phase, ok), {swap: replace})
    finally:
        await agents.close()
    return played, dict(agents.feedback)


def checks(figures: dict[str, Any]) -> list[Check]:
    """What live episodes promise; the others are the recorded story's."""
    feedback = figures["feedback"]
    counts = {
        "a reward for every episode": (feedback["posted"], figures["n"]),
        "rewards that are recorded": (feedback["recorded"], feedback["posted"]),
        "steps that are learned": (figures["matured"], figures["steps"]),
    }
    return [
        *(Check(name, value, f"= {expected}", value == expected) for name, (value, expected) in counts.items()),
        Check("decisions taken again from the log", figures["replay"], "≥ 1", figures["replay"] >= 1),
    ]


def _by_family(played: Sequence[Played]) -> Table:
    table = Table("family", "episodes", "success", "mean reward", "steps", "served by", title="Live")
    for family in sorted({one.task.family for one in played}):
        mine = [one for one in played if one.task.family == family]
        arms = Counter(arm for one in mine for arm in one.arms).most_common(3)
        rates = [sum(values) / len(mine) for values in ([one.success for one in mine], [one.reward for one in mine])]
        steps = sum(len(one.arms) for one in mine) / len(mine)
        name = family + (" (newer)" if family in NEWER else "")
        cells = [f"{rate:.2f}" for rate in (*rates, steps)]
        table.add_row(name, str(len(mine)), *cells, ", ".join(f"{arm} {count}" for arm, count in arms))
    return table
