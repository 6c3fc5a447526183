"""Success on the held-out screens that are not published: what choices made while training may look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.miniwob.episodes import Episode
from examples.miniwob.families import FAMILIES
from examples.miniwob.measurement import Columns, measure
from examples.miniwob.outcomes import Outcomes, matrix
from examples.miniwob.paths import DATA, MODEL
from examples.miniwob.record import VALIDATION
from examples.miniwob.screens import read_screens, to_episode
from services.adapters.registry import BASE

app = typer.Typer(add_completion=False)


def validation(families: Sequence[str]) -> list[Episode]:
    """The screens of the families' first held-out seeds."""
    return [
        to_episode(family, screen)
        for family in families
        for screen in read_screens(DATA / "held-out" / family, VALIDATION * len(FAMILIES[family].steps))
    ]


@app.command()
def validate(
    adapters: Annotated[list[Path] | None, typer.Argument(help="Adapters to measure beside the base.")] = None,
    families: Annotated[str, typer.Option(help="Comma-separated families.")] = ",".join(FAMILIES),
    processes: Annotated[int, typer.Option(min=1, help="Engines at a time, one CPU thread each.")] = 2,
) -> None:
    """Print the success of the base and of adapters on the screens to validate on."""
    columns: Columns = {BASE: None} | {path.name: path for path in adapters or []}
    found = measure(MODEL, columns, validation(families.split(",")), processes)
    Console(width=200).print(matrix(Outcomes({}, tuple(columns), (), found)))


if __name__ == "__main__":
    app()
