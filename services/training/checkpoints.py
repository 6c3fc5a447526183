"""Going on after a kill: each stage's state on disk, under a name that changes with everything that decides it."""

import os
import time
from pathlib import Path
from typing import Any, Final

import torch

_EVERY_S: Final = 1.0


class Checkpoints:
    """The states of one run's stages in a folder of its own; other options or other data are another run."""

    def __init__(self, folder: Path, run: str) -> None:
        self.run = run
        self._folder = folder / run
        self._folder.mkdir(parents=True, exist_ok=True)
        self._saved: dict[str, float] = {}

    def load(self, stage: str) -> dict[str, Any] | None:
        """The last state of a stage. ValueError: it is another run's."""
        path = self._path(stage)
        if not path.exists():
            return None
        found: dict[str, Any] = torch.load(path, weights_only=True)
        if found["run"] != self.run:
            raise ValueError(f"{path}: of run {found['run']}, expected {self.run}")
        state: dict[str, Any] = found["state"]
        return state

    def save(self, stage: str, state: dict[str, Any], *, last: bool = False) -> None:
        """Keep a state, which is there whole or not at all; at most one a second but for the `last`."""
        now = time.monotonic()
        if not last and now - self._saved.get(stage, -_EVERY_S) < _EVERY_S:
            return
        path = self._path(stage)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            torch.save({"run": self.run, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._saved[stage] = now

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage.replace(' ', '-')}.pt"
