"""Small labelled files for the fake engine's families."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from services.engine.base import Prompt
from services.training.examples import Example, content_key
from tests.services.fakes import FAMILIES, FakeEngine


def row(i: int, label: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"task {i}: open the {label}"}], "adapter": label, **more}


def rows(n: int = 60) -> list[dict[str, Any]]:
    return [row(i, FAMILIES[i % len(FAMILIES)], outcomes={"base": 0.2}) for i in range(n)]


def write(path: Path, written: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in written))
    return path


@contextmanager
def fake_engine() -> Iterator[FakeEngine]:
    yield FakeEngine()


def quiet() -> Console:
    return Console(quiet=True)


def example(prompt: Prompt, target: str, *, row: int = 1, label: str = "") -> Example:
    return Example(row, content_key(prompt), prompt, label, target, (), {}, "", "", "train")
