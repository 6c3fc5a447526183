"""A progress bar that also says how it goes."""

from collections import deque
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.miniwob.comparison import LAST


class SuccessBar:
    """Counts what is done out of n, with the phase it is in and the success of the last hundred."""

    def __init__(self, n: int) -> None:
        times, note = TimeElapsedColumn(), TextColumn("{task.fields[note]}")
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), times, note)
        self._task = self._bar.add_task("", total=n, note="")
        self._recent: deque[bool] = deque(maxlen=LAST)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def add(self, phase: str, success: bool) -> None:
        """Count one."""
        self._recent.append(success)
        rate = sum(self._recent) / len(self._recent)
        note = f"success of the last {len(self._recent)}: {rate:.2f}"
        self._bar.update(self._task, advance=1, description=phase, note=note)
