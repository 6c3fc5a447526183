"""Nothing acknowledged is lost or counted twice, whoever is killed when: kill -9 under load, then the books.

A client keeps its own ledger of what was acknowledged to it. Redis and the Learner are killed at random moments while
it decides, rewards, corrects and withdraws; a hot window of a second keeps sealing under fire too. Afterwards every
decision and every last word must be there once, and S, e and P must equal a fold of the whole log from scratch. With
`--with-serve` the same is done to the replicas of a whole service on Ray Serve.
"""

import asyncio
import contextlib
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import serving
from benchmarks.killing import Kill, Targets
from benchmarks.ledger import Account, Client, account
from benchmarks.reporting import Check, report
from cluster.connection import UNAVAILABLE
from cluster.store import Store
from policies.context import ContextMap
from services.adapters.registry import Registry
from services.configuration import feedback_rules, learning_config, make_store
from services.learning.folding import Folding
from services.learning.verification import Verification, verify

_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """What a storm left; the posterior is compared with a fold of the whole log, and of what follows the checkpoint."""

    account: Account
    whole: Verification
    rest: Verification
    kills: list[Kill]
    ended_by_themselves: int
    segments: int

    @property
    def difference(self) -> float:
        """The largest relative difference of S, e, P; infinite where a count differs."""
        arms = [*self.whole.arms, *self.rest.arms]
        return max(arm.largest if arm.counts_equal else float("inf") for arm in arms)


async def storm(directory: Path, kills: int, seed: int = 0, progress: Progress | None = None) -> Outcome:
    """Kill `kills` times under load, let everything be folded, and compare."""
    targets = Targets(directory)
    bar = progress.add_task("killing", total=kills) if progress else None
    async with targets.running(), make_store(targets.settings) as store:
        contexts = ContextMap.load(targets.settings.router.path)
        client = Client(store, Registry(targets.settings.model.adapters).arms, contexts.input_dimension, seed)
        working = asyncio.create_task(client.work(workers=8))
        async for _ in targets.storm(kills, seed, pause_s=(0.1, 1.0)):
            if progress and bar is not None:
                progress.advance(bar)
        client.stop()
        await working
        await _folded(store)
        folding = Folding(contexts, learning_config(targets.settings), feedback_rules(targets.settings))
        segments = len(store.archive.segments()) if store.archive else 0
        books = await account(store, client.promises)
        whole, rest = await verify(store, folding, whole=True), await verify(store, folding)
        return Outcome(books, whole, rest, targets.kills, targets.ended_by_itself, segments)


async def _folded(store: Store) -> None:
    """Wait until everything posted is folded."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        with contextlib.suppress(*UNAVAILABLE):
            state = await store.learner_state()
            if (await store.behind(state.position, state.folded)).events == 0 and not state.rebuilding:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the Learner did not fold everything within {_DEADLINE_S:g} s")
        await asyncio.sleep(0.05)


def _table(outcome: Outcome) -> Table:
    table = Table("arm", "S", "e", "P", "counts", title="used against folded from scratch", title_justify="left")
    for arm in outcome.whole.arms:
        table.add_row(
            arm.arm, f"{arm.S:.1e}", f"{arm.e:.1e}", f"{arm.P:.1e}", "equal" if arm.counts_equal else "differ"
        )
    table.caption = "\n".join(_recovery(outcome.kills, victim) for victim in ("learner", "redis"))
    return table


def _recovery(kills: list[Kill], victim: str) -> str:
    times = sorted(kill.recovery_s for kill in kills if kill.victim == victim)
    return f"{victim}: {len(times)} kills, back after {times[len(times) // 2]:.2f} s (most {times[-1]:.2f} s)"


def _checks(outcome: Outcome, kills: int) -> list[Check]:
    books = outcome.account
    return [
        Check("kills", len(outcome.kills), f"at least {kills}", len(outcome.kills) >= kills),
        Check("lost", books.lost, "0", books.lost == 0),
        Check("doubled", books.doubled, "0", books.doubled == 0),
        Check("largest relative difference", outcome.difference, "at most 1e-9", outcome.difference <= 1e-9),
        Check("Learners that ended by themselves", outcome.ended_by_themselves, "0", outcome.ended_by_themselves == 0),
        Check("sealed segments", outcome.segments, "at least 1", outcome.segments > 0),
    ]


def _figures(kills: list[Kill]) -> list[dict[str, object]]:
    return [kill._asdict() for kill in kills]


def main(
    only: Annotated[Literal["learner"], typer.Option(help="What is put under fire.")] = "learner",
    kills: Annotated[int, typer.Option(min=2, help="Kills of Redis and the Learner.")] = 60,
    seed: Annotated[int, typer.Option(help="Of moments, victims and traffic.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="12 kills instead, and 1 of each kind.")] = False,
    with_serve: Annotated[bool, typer.Option("--with-serve", help="Also on Ray Serve, 4 of each kind.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the raw figures here.")] = None,
) -> None:
    """Kill Redis and the Learner under load, and check that nothing is lost or doubled."""
    wanted, each = (12, 1) if quick else (kills, 4)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, Progress(console=Console(stderr=True)) as progress:
        outcome = asyncio.run(storm(Path(directory), wanted, seed, progress))
        served = _serve(Path(directory) / "serve", each, seed, progress) if with_serve else None
    books = outcome.account
    title = f"{only}: {books.decisions} decisions, {books.words} words, {time.monotonic() - began:.0f} s"
    checks = _checks(outcome, wanted)
    figures: dict[str, Any] = {
        "account": books._asdict(),
        "kills": _figures(outcome.kills),
        "arms": outcome.whole.model_dump()["arms"],
    }
    if with_serve and served is None:
        checks.append(Check("the service on Ray Serve", 0, "starts, and is whole after every kill", False))
    if served:
        Console().print(serving.table(served))
        checks += serving.checks(served, each)
        figures["serve"] = {"account": served.account._asdict(), "kills": [kill._asdict() for kill in served.kills]}
    report(title, _table(outcome), checks, json_file, **figures)


def _serve(directory: Path, each: int, seed: int, progress: Progress) -> serving.ServeOutcome | None:
    """The outcome on Serve; none if it did not come up again: what was found before is reported all the same."""
    bar = progress.add_task("killing replicas", total=each * len(serving.DEPLOYMENTS))
    try:
        return serving.storm(directory, each, seed, lambda _: progress.advance(bar))
    except (RuntimeError, TimeoutError):
        traceback.print_exc()
        return None


if __name__ == "__main__":
    typer.run(main)
