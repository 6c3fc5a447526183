"""Trained routers on disk: one directory a version, whole or not there at all."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from policies.checks import Array
from policies.context import ContextMap

DOCUMENT: Final = "training.json"
_EXAMPLES: Final = "examples.safetensors"
_VERSION: Final = re.compile(r"v(\d{4,})")
_MOST_EXAMPLES: Final = 4096


@dataclass(frozen=True, eq=False)
class Supervised:
    """The examples that a router was trained on, so that another can be made over them without the data.

    H [n,D]; labels, "" where there is none; outcomes [n, len(arms)], NaN where not measured; aside [n]: held out.
    """

    H: Array
    labels: tuple[str, ...]
    arms: tuple[str, ...]
    outcomes: Array
    aside: np.ndarray

    def sample(self, seed: int) -> "Supervised":
        """At most 4,096 of them."""
        if len(self.labels) <= _MOST_EXAMPLES:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.labels))[:_MOST_EXAMPLES])
        labels = tuple(self.labels[i] for i in rows)
        return Supervised(self.H[rows], labels, self.arms, self.outcomes[rows], self.aside[rows])


def versions(folder: Path) -> dict[str, Path]:
    """The routers in a folder, oldest first."""
    found = [path for path in folder.glob("v*") if _VERSION.fullmatch(path.name) and (path / DOCUMENT).is_file()]
    return {path.name: path for path in sorted(found, key=lambda path: int(path.name[1:]))}


def document(version: Path) -> dict[str, Any]:
    """What is known of how a version was made."""
    found: dict[str, Any] = json.loads((version / DOCUMENT).read_text())
    return found


def of_run(folder: Path, run: str) -> Path | None:
    """The version that a run has made already."""
    return next((path for path in versions(folder).values() if document(path)["run"] == run), None)


def write(
    folder: Path,
    contexts: ContextMap,
    supervised: Supervised,
    known: Mapping[str, Any],
    fill: Callable[[Path], object] = lambda _: None,
) -> Path:
    """The next version in a folder; `fill` may put more into it."""
    part = folder / f".part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    contexts.save(part)
    _save_examples(supervised, part / _EXAMPLES)
    fill(part)
    numbers = [int(name[1:]) for name in versions(folder)]
    version = folder / f"v{max(numbers, default=0) + 1:04d}"
    told = {"version": version.name, "router": contexts.fingerprint, **known}
    (part / DOCUMENT).write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")
    part.rename(version)
    return version


def read_examples(version: Path) -> Supervised | None:
    """The examples of a version; None for a router that was saved without."""
    path = version / _EXAMPLES
    if not path.is_file():
        return None
    found = load_file(path)
    names = json.loads(bytes(found["names"]).decode())
    labels = tuple(names["labels"][i] for i in found["labels"])
    H = found["H"].astype(np.float64)
    return Supervised(H, labels, tuple(names["arms"]), found["outcomes"], found["aside"].astype(bool))


def _save_examples(supervised: Supervised, path: Path) -> None:
    names = sorted(set(supervised.labels))
    text = json.dumps({"labels": names, "arms": supervised.arms}).encode()
    arrays = {
        "H": supervised.H.astype(np.float16),
        "labels": _indices(supervised.labels, names),
        "outcomes": supervised.outcomes,
        "aside": supervised.aside.astype(np.uint8),
        "names": np.frombuffer(text, np.uint8),
    }
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)


def _indices(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    return np.array([names.index(label) for label in labels], dtype=np.int32)
