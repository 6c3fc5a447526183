"""The demo: serve the embedded world, send it tasks, post their outcomes late, and see what was learned."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.reporting import Check, report
from cluster.connection import Entry
from cluster.events import Completion
from examples.miniwob import live_demo, plot
from examples.miniwob.comparison import LAST, Course, Lived, agreement, courses, line
from examples.miniwob.episodes import load_all
from examples.miniwob.families import NEWER
from examples.miniwob.live import find_browser
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.progress import SuccessBar
from examples.miniwob.serving import Service, serving
from examples.miniwob.story import ALL, REGRESSED, Story, tell
from examples.miniwob.traffic import Agents, Served
from examples.miniwob.visit import Visit
from examples.miniwob.visit import checks as promised
from services.cli import tables

QUICK, FULL = 2000, 5000
_WHAT: Final = {
    "routed": "the live service",
    "supervised": "the MLP alone",
    "best_single": "one adapter for everything",
    "base": "no adapter",
    "oracle": "best arm per family and phase, in hindsight",
}

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help=f"{QUICK} requests instead of {FULL}.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    picture: Annotated[Path, typer.Option("--plot", help="Where the picture goes (PNG).")] = Path("demo.png"),
    seed: Annotated[int, typer.Option(help="Seed of the story.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 32,
    delay: Annotated[int, typer.Option(min=0, help="Requests between an answer and its reward, at least.")] = 30,
    live: Annotated[bool, typer.Option(help="Play real pages in Chromium, on fresh seeds.")] = False,
    stay: Annotated[bool, typer.Option(help="Keep serving afterwards, for a look at the dashboard.")] = False,
    url: Annotated[str | None, typer.Option(help="Ask this service of the embedded world, and start none.")] = None,
    key: Annotated[str | None, typer.Option(envvar="POINTSMAN_KEY", help="Bearer key, if it wants one.")] = None,
) -> None:
    """Serve the embedded model and its adapters, send recorded MiniWoB++ tasks, and watch the router learn.

    First come families that the supervised router was trained on, then also families whose adapters are newer than it.
    Half-way one adapter's files are overwritten by a worse version, while another team's good adapter for the same
    family stands beside it. The service reads the files again and logs their new hash, but is set to believe of the
    arm what it believed before (learner.version_carry=1): only the late rewards can tell. With --url that half is left
    out.
    """
    for file in (json_file, picture):
        if file and not file.resolve().parent.is_dir():
            raise typer.BadParameter(f"{file}: no such directory")
    if live and url:
        raise typer.BadParameter("--live and --url, expected one of them")
    if live:
        _live(quick, seed, json_file, stay=stay)
        return
    story = tell(load_all(), Outcomes.load(), QUICK if quick else FULL, seed)
    if url:
        _visited(Visit(url, key), story, concurrency, delay, json_file)
    else:
        _recorded(story, concurrency, delay, picture, json_file, stay=stay)


def _recorded(story: Story, concurrency: int, delay: int, picture: Path, json_file: Path | None, *, stay: bool) -> None:
    """Run the story and report; SystemExit(1) where a promise is not kept."""
    with _serving(stay=stay) as service:
        started = time.monotonic()
        served, feedback = asyncio.run(_drive(service, story, concurrency, delay))
        seconds = round(time.monotonic() - started, 1)
        state = service.settled(feedback["recorded"])
        replay, hashes = service.replayed(), _hashes(served, service.log())
        mixtures = service.settings.router.mixtures
    table = Outcomes.load()
    lived = [Lived(one.task.phase, one.task.episode.id, one.arm, one.supervised, one.success) for one in served]
    success = courses(lived, table, story)
    figures = {
        "n": len(served),
        "seconds": seconds,
        "feedback": feedback,
        "matured": sum(arm["matured"] for arm in state["arms"]),
        "agreement": agreement(lived, hashes, table),
        "replay": replay,
        "regressing": story.regressing,
        **{name: line(course)._asdict() for name, course in success.items()},
    }
    marks = {story.begins[ALL]: "newer families", story.swap: f"{story.regressing} silently worse"}
    plot.draw(success, [one.arm for one in served], marks, picture, [*table.arms, *mixtures])
    console.print(tables.bandit(state), _by_family(served))
    title = f"{len(served)} requests in {seconds} s; the picture is {picture}"
    report(title, _lines(success), checks(figures), json_file, **figures)


def _visited(visit: Visit, story: Story, concurrency: int, delay: int, json_file: Path | None) -> None:
    """The story up to the swap, at a service of somebody else's; SystemExit(1) where a promise is not kept."""
    figures, success = visit.run(story, story.swap, concurrency, delay)
    console.print(tables.bandit(visit.beliefs()))
    title = f"{figures['n']} requests in {figures['seconds']} s"
    report(title, _lines(success), promised(figures), json_file, **figures)


def _live(quick: bool, seed: int, json_file: Path | None, *, stay: bool) -> None:
    find_browser()
    with _serving(stay=stay) as service:
        live_demo.run(service, live_demo.QUICK if quick else live_demo.FULL, seed, json_file)


@contextlib.contextmanager
def _serving(*, stay: bool) -> Iterator[Service]:
    with console.status("Starting Redis, Ray and Serve, loading the model…") as status, serving() as service:
        status.stop()
        console.print(f"Serving; the dashboard is at {service.url}/", highlight=False)
        yield service
        if stay:
            console.print(f"The dashboard stays at {service.url}/ until Ctrl-C; then come the figures", highlight=False)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        console.print("Stopping…")


async def _drive(service: Service, story: Story, concurrency: int, delay: int) -> tuple[list[Served], dict[str, int]]:
    agents = Agents(service.url, concurrency=concurrency, delay=delay)

    async def swap() -> None:
        await asyncio.to_thread(service.replace, story.regressing)

    try:
        with SuccessBar(len(story.tasks)) as progress:
            served = await agents.run(
                story.tasks, lambda task, success: progress.add(task.phase, success), {story.swap: swap}
            )
    finally:
        await agents.close()
    return served, dict(agents.feedback)


def checks(figures: dict[str, Any]) -> list[Check]:
    """What the demo promises."""
    feedback, n = figures["feedback"], figures["n"]
    answered = sum(count for status, count in feedback.items() if status != "posted")
    routed, supervised = figures["routed"], figures["supervised"]
    margins = {
        "last hundred, routed − oracle": (routed["last_hundred"] - figures["oracle"]["last_hundred"], -0.08),
        "success, routed − best single": (routed["success"] - figures["best_single"]["success"], 0.20),
        "last hundred, routed − supervised": (routed["last_hundred"] - supervised["last_hundred"], 0.10),
        "outcomes as in the outcome table": (figures["agreement"], 0.98),
        "decisions taken again from the log": (figures["replay"], 1.0),
    }
    counts = {
        "a reward for every request": (feedback["posted"], n),
        "every reward is accounted for": (answered, feedback["posted"]),
        "rewards that are learned": (figures["matured"], feedback["recorded"]),
    }
    return [
        *(Check(name, value, f"≥ {floor:g}", round(value, 9) >= floor) for name, (value, floor) in margins.items()),
        *(Check(name, value, f"= {expected}", value == expected) for name, (value, expected) in counts.items()),
    ]


def _hashes(served: Sequence[Served], log: Sequence[Entry]) -> list[dict[str, str]]:
    """The content hashes of the adapters that really served each request, as its completion says."""
    said = {event.decision_id: event.adapters for _, event in log if isinstance(event, Completion)}
    return [said.get(one.decision_id, {}) for one in served]


def _lines(success: dict[str, Course]) -> Table:
    table = Table("", "success", f"last {LAST}", "")
    for name, meaning in _WHAT.items():
        rates = line(success[name])
        table.add_row(name, f"{rates.success:.3f}", f"{rates.last_hundred:.3f}", meaning)
    return table


def _by_family(served: Sequence[Served]) -> Table:
    """Success and pulls of every family; after the swap apart."""
    table = Table("family", "success", "served by", "after the swap", "served by", title="Routed")
    for family in sorted({one.task.episode.family for one in served}):
        mine = [one for one in served if one.task.episode.family == family]
        after = [one for one in mine if one.task.phase == REGRESSED]
        before = [one for one in mine if one.task.phase != REGRESSED]
        table.add_row(family + (" (newer)" if family in NEWER else ""), *_cells(before), *_cells(after))
    return table


def _cells(served: Sequence[Served]) -> tuple[str, str]:
    if not served:
        return "–", ""
    pulls = Counter(one.arm for one in served).most_common(3)
    rate = sum(one.success for one in served) / len(served)
    return f"{rate:.2f}", ", ".join(f"{arm} {count}" for arm, count in pulls)


if __name__ == "__main__":
    app()
