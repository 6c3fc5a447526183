"""Recorded episodes as `pointsman train` reads them: messages, the adapter that is right, the click, the outcomes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.miniwob.episodes import Box, Episode, click_call, from_pixel, load_all
from examples.miniwob.outcomes import Outcomes

app = typer.Typer(add_completion=False)


def row(episode: Episode, table: Outcomes, *, labelled: bool = True) -> dict[str, Any]:
    """One example; without a label it has its target only. Both clicks of a seed go to one side of the split."""
    x0, y0, x1, y1 = episode.boxes[0]
    known: dict[str, Any] = {
        "messages": episode.messages(),
        "target": click_call(from_pixel((x0 + x1) / 2), from_pixel((y0 + y1) / 2)),
        "boxes": [_scaled(box) for box in episode.boxes],
        "group": f"{episode.family}/{episode.seed}",
    }
    if labelled:
        own = table.best_own(episode.family)
        measured = {arm: float(table.success(episode.id, arm)) for arm in ("base", own)}
        known |= {"adapter": own, "outcomes": measured, "task": episode.family}
    return known


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def _scaled(box: Box) -> list[int]:
    return [from_pixel(edge) for edge in box]


@app.command()
def labelled(
    to: Annotated[Path, typer.Argument(dir_okay=False, help="JSONL file to write.")],
    every: Annotated[int, typer.Option(min=1, help="Take every n-th episode of the recorded ones.")] = 1,
    labels: Annotated[bool, typer.Option(help="Name the adapter and its outcomes, not the right click alone.")] = True,
) -> None:
    """Write the recorded episodes as training data."""
    table = Outcomes.load()
    write(to, [row(episode, table, labelled=labels) for episode in load_all()[::every]])
    typer.echo(f"{to}: {sum(1 for _ in to.open())} rows")


if __name__ == "__main__":
    app()
