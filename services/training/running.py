"""Running a stage to its end: a live bar with the figures that tell of collapse, and a checkpoint after each round."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from policies.training.collapse import Health, alarms
from policies.training.stage import Round, Stage
from services.training.checkpoints import Checkpoints


def run(stage: Stage, checkpoints: Checkpoints, console: Console) -> Round:
    """Do the rounds that are left, and keep the best; which that is."""
    state = checkpoints.load(stage.name)
    if state is not None:
        stage.restore(state)
        console.print(f"{stage.name}: going on after round {len(stage.history)}", highlight=False)
    with bar(console, stage.name, stage.rounds) as update:
        update(len(stage.history), note(stage.history[-1]) if stage.history else "")
        while not stage.finished:
            done = stage.advance()
            checkpoints.save(stage.name, stage.state())
            update(len(stage.history), note(done))
    checkpoints.save(stage.name, stage.state(), last=True)
    return stage.keep_best()


def note(one: Round) -> str:
    """A round's figures on one line; what is wrong comes first."""
    wrong = alarms(one.health)
    loss = f"held-out loss {one.held_out_loss:.3f}, {figures(one.health)}"
    return f"[bold red]{wrong[0].partition(':')[0]}[/], {loss}" if wrong else loss


def figures(health: Health) -> str:
    """How the gates are spread."""
    recall = "" if health.mean_recall is None else f"recall {health.mean_recall:.2f}, "
    most = max(health.use, key=lambda arm: health.use[arm])
    return f"{recall}entropy {health.entropy:.2f}, peaked {health.peaked:.2f}, most used {most} {health.use[most]:.2f}"


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Callable[[int, str], Any]]:
    """A bar that is told how much is done, and a note."""
    columns = (
        TextColumn("{task.description}", table_column=Column(min_width=len(title), no_wrap=True)),
        BarColumn(bar_width=10, table_column=Column(min_width=10, no_wrap=True)),
        MofNCompleteColumn(table_column=Column(min_width=2 * len(str(total)) + 1, no_wrap=True)),
        TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1)),  # on as many lines as it takes
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda done, text: progress.update(task, completed=done, note=text)
