"""Recorded episodes as `pointsman train` reads them: messages, the adapter that is right, the click, the outcomes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.miniwob.episodes import Episode, click_call, from_pixel, load_all
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.screens import on_grid

app = typer.Typer(add_completion=False)


def row(episode: Episode, table: Outcomes, *, labelled: bool = True) -> dict[str, Any]:
    """One example; without a label it has its target only. Both clicks of a seed go to one side of the split."""
    known: dict[str, Any] = {
        "messages": episode.messages(),
        "target": click_call(*_click(episode)),
        "boxes": [[from_pixel(edge) for edge in box] for box in episode.boxes],
        "group": f"{episode.family}/{episode.seed}",
    }
    if labelled:
        own = table.best_own(episode.family)
        measured = {arm: float(table.success(episode.id, arm)) for arm in ("base", own)}
        known |= {"adapter": own, "outcomes": measured, "task": episode.family}
    return known


def _click(episode: Episode) -> tuple[int, int]:
    """The middle of an answer, on the grid of coordinates that the adapters were taught."""
    first, *others = episode.boxes
    answer = [first]
    for box in others:  # an answer that is no rectangle is several boxes, each of which touches the one before
        if box[0] <= answer[-1][2] and answer[-1][0] <= box[2] and box[1] <= answer[-1][3]:
            answer.append(box)
    x0, y0 = (min(box[axis] for box in answer) for axis in (0, 1))
    x1, y1 = (max(box[axis] for box in answer) for axis in (2, 3))
    x, y = (on_grid(from_pixel((low + high) / 2)) for low, high in ((x0, x1), (y0, y1)))
    if episode.success(click_call(x, y)):
        return x, y
    widest = max(answer, key=lambda box: box[2] - box[0])
    return from_pixel((widest[0] + widest[2]) / 2), from_pixel((widest[1] + widest[3]) / 2)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


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
