"""The demo: serve the embedded world, send it recorded tasks, post their outcomes late, and see what was learned."""

import asyncio
import contextlib
import json
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from examples.miniwob.comparison import LAST, Line, agreement, compare
from examples.miniwob.episodes import load_all
from examples.miniwob.families import NEWER
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.paths import ADAPTERS, MODEL, ROUTER
from examples.miniwob.traffic import Agents, Served, schedule
from services import tables
from services.client import Client

QUICK, FULL = 600, 2000
_KNOWN_SHARE: Final = 0.25
_FOLD_PATIENCE_S: Final = 60.0

app = typer.Typer(add_completion=False)
console = Console()


class Check(NamedTuple):
    """One thing that must hold."""

    name: str
    value: float
    goal: str
    ok: bool


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help=f"{QUICK} requests instead of {FULL}.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the schedule.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 16,
    delay: Annotated[int, typer.Option(min=0, help="Requests between an answer and its reward, at least.")] = 30,
) -> None:
    """Serve the embedded model and its adapters, send recorded MiniWoB++ tasks, and watch the router learn.

    First come families that the supervised router was trained on, then also families whose adapter is newer than it.
    """
    if json_file and not json_file.resolve().parent.is_dir():
        raise typer.BadParameter(f"--json {json_file}: no such directory")
    with _service() as url:
        result = asyncio.run(_drive(url, QUICK if quick else FULL, seed, concurrency, delay))
        state = _settled(Client(url), result["feedback"]["recorded"])
        result["matured"] = sum(arm["matured"] for arm in state["arms"])
        checks = _checks(result)
        console.print(tables.bandit(state))
        _print(result, checks)
        if json_file:
            report = {**result, "checks": [check._asdict() for check in checks]}
            json_file.write_text(json.dumps(report, indent=1) + "\n")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@contextlib.contextmanager
def _service() -> Iterator[str]:
    from services.launch import running  # Ray takes seconds to import

    with tempfile.TemporaryDirectory(prefix="pointsman-demo-") as data, contextlib.ExitStack() as stack:
        with console.status("Starting Redis, Ray and Serve, loading the model…"):
            started = time.monotonic()
            redis = stack.enter_context(RedisServer(data))  # its own, whatever store the environment names
            url = stack.enter_context(running(_settings(redis.url)))
        console.print(f"Serving at {url} after {time.monotonic() - started:.0f} s", highlight=False)
        yield url
        console.print("Stopping…")


def _settings(redis_url: str) -> Settings:
    """The embedded world on a free port; policy and learning as the environment and the file say."""
    return Settings.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": free_port()},
            "model": {"path": str(MODEL), "adapters": ADAPTERS},
            "router": {"path": ROUTER},
            "store": {"url": redis_url, "prefix": "pointsman-demo:"},
        }
    )


async def _drive(url: str, n: int, seed: int, concurrency: int, delay: int) -> dict[str, Any]:
    episodes = load_all()
    known = [episode for episode in episodes if episode.family not in NEWER]
    first = int(n * _KNOWN_SHARE)
    tasks = schedule({"known": known, "all": episodes}, {"known": first, "all": n - first}, seed)
    agents = Agents(url, concurrency=concurrency, delay=delay)
    started = time.monotonic()
    try:
        with _Progress(n) as progress:
            served = await agents.run(tasks, progress.add)
    finally:
        await agents.close()
    table = Outcomes.load()
    return {
        "n": n,
        "seconds": round(time.monotonic() - started, 1),
        **{name: line._asdict() for name, line in compare(served, table).items()},
        "families": _by_family(served),
        "agreement": agreement(served, table),
        "feedback": dict(agents.feedback),
    }


class _Progress:
    """A bar with the success of the last hundred requests."""

    def __init__(self, n: int) -> None:
        times, note = TimeElapsedColumn(), TextColumn("{task.fields[note]}")
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), times, note)
        self._task = self._bar.add_task("requests", total=n, note="")
        self._recent: deque[bool] = deque(maxlen=LAST)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def add(self, served: Served) -> None:
        """Count an answer."""
        self._recent.append(served.success)
        rate = sum(self._recent) / len(self._recent)
        note = f"success of the last {len(self._recent)}: {rate:.2f}"
        phase = {"known": "known families", "all": "and newer ones"}[served.task.phase]
        self._bar.update(self._task, advance=1, description=phase, note=note)


def _settled(client: Client, recorded: int) -> dict[str, Any]:
    """The bandit once the Learner has folded every reward; as it is when that takes too long."""
    deadline = time.monotonic() + _FOLD_PATIENCE_S
    while True:
        state: dict[str, Any] = client.get("/v1/bandit")
        if sum(arm["matured"] for arm in state["arms"]) >= recorded or time.monotonic() > deadline:
            return state
        time.sleep(0.2)


def _by_family(served: Sequence[Served]) -> dict[str, dict[str, Any]]:
    """Success and pulls per family."""
    families = sorted({one.task.episode.family for one in served})
    return {
        family: {
            "success": sum(one.success for one in members) / len(members),
            "pulls": dict(Counter(one.arm for one in members).most_common()),
        }
        for family in families
        if (members := [one for one in served if one.task.episode.family == family])
    }


def _checks(result: dict[str, Any]) -> list[Check]:
    feedback = result["feedback"]
    answered = sum(count for status, count in feedback.items() if status != "posted")
    return [
        Check(
            "every reward is accounted for", answered, f"= {feedback['posted']} posted", answered == feedback["posted"]
        ),
        Check("a reward for every request", feedback["posted"], f"= {result['n']}", feedback["posted"] == result["n"]),
        Check(
            "the Learner matured what was recorded",
            result["matured"],
            f"= {feedback['recorded']} recorded",
            result["matured"] == feedback["recorded"],
        ),
        Check("live outcomes as in the outcome table", result["agreement"], "≥ 0.98", result["agreement"] >= 0.98),
    ]


def _print(result: dict[str, Any], checks: list[Check]) -> None:
    what = {
        "routed": "the live service",
        "supervised": "the MLP alone",
        "best_single": "one adapter for everything",
        "base": "no adapter",
        "oracle": "best arm per family and phase, in hindsight",
    }
    table = Table("", "success", f"last {LAST}", "", title=f"{result['n']} requests in {result['seconds']} s")
    for name, meaning in what.items():
        line = Line(**result[name])
        table.add_row(name, f"{line.success:.3f}", f"{line.last_hundred:.3f}", meaning)
    console.print(table)
    families = Table("family", "success", "served by", title="Routed")
    for family, row in result["families"].items():
        served = ", ".join(f"{arm} {count}" for arm, count in list(row["pulls"].items())[:4])
        families.add_row(family + (" (newer)" if family in NEWER else ""), f"{row['success']:.2f}", served)
    console.print(families)
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[bold red]FAILED[/]"
        console.print(f"{mark}  {check.name}: {check.value:g} ({check.goal})", highlight=False)


if __name__ == "__main__":
    app()
