"""How the scripts say what they do: a log file each, and a progress bar on the terminal."""

import contextlib
import logging
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from examples.miniwob.paths import DATA


def log_to(name: str) -> None:
    """Send the log to data/<name>.log, appended, with the time of each line."""
    DATA.mkdir(exist_ok=True)
    logging.basicConfig(
        filename=DATA / f"{name}.log", level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True
    )


@contextlib.contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar of `total` steps, `done` of them past; call what it yields after each step, with columns to show."""
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), *times, note) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")
        yield lambda note="": bar.update(task, advance=1, note=note)
