"""The demo's story over many seeds, offline: real policies on the outcome table, late rewards, a silent regression.

`python -m benchmarks.story --json FILE` prints paired differences with their 95% intervals.
"""

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import typer
from rich.progress import track
from rich.table import Table

from benchmarks.reporting import Check, report
from benchmarks.worlds import World, embedded
from cluster.events import ArmRegistered, Decision, Event, Feedback
from cluster.settings import Settings
from examples.miniwob.comparison import Line, Lived, courses, line
from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.serving import silent
from examples.miniwob.story import Story, Task, tell
from policies import Choice, Context, create
from policies.checks import Array
from policies.posterior import Posterior
from policies.prior import Prior
from services.configuration import feedback_rules, learning_config, policy_config
from services.learning.folded import FoldedPosterior
from services.learning.folding import Folding

SEEDS, QUICK_SEEDS = 100, 20
REQUESTS: Final = 2000
DELAY: Final = 30
"""Requests between an answer and its reward, at least."""
BLOCK: Final = 20
"""Rewards that are posted together."""
LAG: Final = 8
"""Requests that are decided on one snapshot."""
_RESAMPLES: Final = 10_000

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Memory:
    """What the story is played on: the episodes, what the router sees of them, and how every arm did on them."""

    episodes: list[Episode]
    world: World
    table: Outcomes


class Difference(NamedTuple):
    """Mean over seeds of a paired difference, and its 95% interval."""

    mean: float
    low: float
    high: float


@app.command()
def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    quick: Annotated[bool, typer.Option(help=f"{QUICK_SEEDS} seeds instead of {SEEDS}.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Seeds at a time.")] = 2,
) -> None:
    """Play the story of `make demo` on many seeds and compare routing with the oracle, the MLP and a single adapter."""
    seeds = range(QUICK_SEEDS if quick else SEEDS)
    memory()  # so that features are computed once, if they must be
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        played = list(track(pool.map(play, seeds), "seeds", total=len(seeds)))
    lines = {name: [each[name] for each in played] for name in played[0]}
    found = differences(lines)
    figures = {"lines": lines, "differences": found}
    report("The story, paired over seeds", _table(lines, found), checks(found), json_file, **figures)


def play(seed: int, n: int = REQUESTS) -> dict[str, Line]:
    """Success of every way of choosing, on the story of one seed."""
    known = memory()
    story = tell(known.episodes, known.table, n, seed)
    lived = experience(story, known, seed)
    return {name: line(course) for name, course in courses(lived, known.table, story).items()}


@cache
def memory() -> Memory:
    """The recorded episodes that were measured, in the order of the world's rows."""
    table = Outcomes.load()
    return Memory([episode for episode in load_all() if episode.id in table.table], embedded(), table)


def experience(story: Story, known: Memory, seed: int) -> list[Lived]:
    """Every request of the story, served by the bandit as the service runs it."""
    service = _Service(known, story, seed)
    for number, task in enumerate(story.tasks):
        if number == story.swap:
            service.replace(story.regressing)
        service.serve(number, task)
    return service.lived


class _Service:
    """Router and Learner in one process: decisions on snapshots that lag, events folded in order, rewards late."""

    def __init__(self, known: Memory, story: Story, seed: int) -> None:
        contexts = known.world.contexts
        settings = silent(Settings())
        learning = learning_config(settings)
        posterior = Posterior(Prior(contexts.statistics, learning))
        self._policy = create("linucb", posterior, policy_config(settings), contexts.supervision)
        fold = Folding(contexts, learning, feedback_rules(settings)).start({})
        self._beliefs = FoldedPosterior(fold, posterior)
        self._known, self._story, self._seed = known, story, seed
        self._arms = known.table.arms
        self._rows = {episode.id: row for row, episode in enumerate(known.episodes)}
        self._X, self._G = known.world.mapped
        self._events: deque[Event] = deque()
        self._unsaid: deque[Event] = deque()
        self.lived: list[Lived] = []
        for arm in self._arms:
            self._register(arm, known.table.adapters.get(arm))
        self._refresh()

    def serve(self, number: int, task: Task) -> None:
        """Decide, log, look up what comes of it, and say so later."""
        row, id_ = self._rows[task.episode.id], f"{self._seed}.{number}"
        gates = dict(zip(self._known.world.contexts.arms, self._G[row].tolist(), strict=True))
        choice = self._policy.decide(Context(self._X[row], gates), eligible=self._arms, costs={}, seed=id_)
        self._beliefs.overlay([(choice.arm, self._X[row])])
        self._events.append(_decision(id_, number, choice, self._known.world.H[row]))
        success = self._known.table.success(task.episode.id, self._story.column(choice.arm, task.phase))
        self.lived.append(Lived(task.phase, task.episode.id, choice.arm, choice.supervised, success))
        self._unsaid.append(Feedback(time=number, decision_id=id_, source="page", reward=success, members=[id_]))
        if len(self._unsaid) >= DELAY + BLOCK:
            self._events.extend(self._unsaid.popleft() for _ in range(BLOCK))
        if number % LAG == 0:
            self._refresh()

    def replace(self, adapter: str) -> None:
        """The worse version serves from now on."""
        self._register(adapter, "the worse version")

    def _register(self, arm: str, fingerprint: str | None) -> None:
        self._events.append(ArmRegistered(time=0, arm=arm, adapter_hash=fingerprint))

    def _refresh(self) -> None:
        while self._events:
            self._beliefs.fold(self._events.popleft())
        self._beliefs.refresh()


def differences(lines: dict[str, list[Line]]) -> dict[str, Difference]:
    """What is promised of, by name."""
    success = {name: np.array([each.success for each in of]) for name, of in lines.items()}
    last = {name: np.array([each.last_hundred for each in of]) for name, of in lines.items()}
    return {
        "last hundred, routed − oracle": interval(last["routed"] - last["oracle"]),
        "success, routed − best single": interval(success["routed"] - success["best_single"]),
        "last hundred, routed − supervised": interval(last["routed"] - last["supervised"]),
    }


def interval(values: Array) -> Difference:
    """Mean and its 95% percentile bootstrap interval over seeds."""
    drawn = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float(values.mean()), float(low), float(high))


def checks(found: dict[str, Difference]) -> list[Check]:
    """The lower ends of the intervals against what the demo promises."""
    goals = dict(zip(found, (-0.08, 0.20, 0.10), strict=True))
    return [
        Check(f"{name}, lower end", difference.low, f"≥ {goals[name]:g}", difference.low >= goals[name])
        for name, difference in found.items()
    ]


def _decision(id_: str, time: float, choice: Choice, h: Array) -> Decision:
    return Decision(
        time=time, id=id_, model="", arm=choice.arm, gates={}, adapters={}, propensity=choice.propensity,
        explored=choice.explored, supervised=choice.supervised, policy="linucb", policy_version=0, mode="online",
        router="", eligible=[], resident=[], scored=[], features=h.astype(np.float16).tobytes(),
    )  # fmt: skip


def _table(lines: dict[str, list[Line]], found: dict[str, Difference]) -> Table:
    table = Table("", "success", "last 100", title=f"{len(lines['routed'])} seeds × {REQUESTS} requests")
    for name, of in lines.items():
        success, last = (np.mean([getattr(each, field) for each in of]) for field in Line._fields)
        table.add_row(name, f"{success:.3f}", f"{last:.3f}")
    table.add_section()
    for name, (mean, low, high) in found.items():
        table.add_row(name, f"{mean:+.3f}", f"[{low:+.3f}, {high:+.3f}]")
    return table


if __name__ == "__main__":
    app()
