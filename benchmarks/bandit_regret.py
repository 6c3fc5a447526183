"""How much success the router gives away while it learns, beside other learners, in worlds (a) to (h).

All learners see the same requests, contexts, prior and rewards, and are tuned on the same grid, on other seeds. What
exploring costs is told apart from how good the choice is that the learner would make without it. `--kept` takes the
tuned values from the file beside this one, `--keep` tunes and writes it.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.regret import plots
from benchmarks.regret.campaign import Tuned, measure, tune
from benchmarks.regret.learners import FIXED, GRIDS
from benchmarks.regret.scenarios import SCENARIOS
from benchmarks.regret.simulation import Lived
from benchmarks.regret.verdict import SHIPPED, judge, rows
from benchmarks.reporting import report
from examples.miniwob.reporting import progress_bar

_KEPT: Final = Path(__file__).with_suffix(".json")
_PROCESSES: Final = 2
_CAPTION: Final = (
    "in (g) ours may also bound what a client holds of an arm (key_cap, tuned): no other learner knows clients"
)

app = typer.Typer(add_completion=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help="3 seeds of 1,200 requests, with the kept values.")] = False,
    kept: Annotated[bool, typer.Option(help="Do not tune: take the values that were kept.")] = False,
    keep: Annotated[bool, typer.Option(help="Tune, and keep the values of these worlds.")] = False,
    seeds: Annotated[int, typer.Option(min=2, help="Paired seeds.")] = 40,
    worlds: Annotated[str, typer.Option(help="First letters of the worlds, such as 'acd'.")] = "abcdefgh",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write figures and checks here.")] = None,
    pictures: Annotated[Path | None, typer.Option("--plots", help="Write a PNG a world into this directory.")] = None,
) -> None:
    """Compare the learners in every world; exit 1 if something that was promised does not hold."""
    seeds, steps = (3, 1200) if quick else (seeds, 1500)
    names = [world for world in SCENARIOS if world[0] in worlds]
    with ProcessPoolExecutor(_PROCESSES, initializer=_one_thread) as pool:
        if quick or kept:
            tuned = json.loads(_KEPT.read_text())
        else:
            with progress_bar("tuning", len(names) * len(GRIDS)) as advance:
                tuned = tune(pool, names, steps, advance)
        if keep:
            _KEPT.write_text(json.dumps({**json.loads(_KEPT.read_text()), **tuned}, indent=1) + "\n")
        with progress_bar("worlds × seeds", len(names) * seeds) as advance:
            lived = measure(pool, _line_up(tuned, names), range(seeds), steps, advance)
    _conclude(lived, tuned, json_file, pictures, widths=seeds >= 20)


def _line_up(tuned: Tuned, names: list[str]) -> Tuned:
    """The tuned learners, Pointsman as it is shipped, and those that have nothing to tune."""
    return {world: {**tuned[world], SHIPPED: {}, **{name: {} for name in FIXED}} for world in names}


def _one_thread() -> None:
    threadpool_limits(1)
    torch.set_num_threads(1)


def _conclude(
    lived: Mapping[str, Lived], tuned: Tuned, json_file: Path | None, pictures: Path | None, *, widths: bool
) -> None:
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        for world, lives in lived.items():
            plots.draw(world, lives, pictures)
    figures: dict[str, Any] = {
        world: {name: {key: each._asdict() for key, each in row._asdict().items()} for name, row in rows(lives).items()}
        | {"oracle": 100 * float(lives.oracle.mean())}
        for world, lives in lived.items()
    }
    checks = judge(lived, widths=widths)
    report("bandit_regret", _table(lived), checks, json_file, worlds=figures, tuned=tuned)


def _table(lived: Mapping[str, Lived]) -> Table:
    columns = ("world", "learner", "greedy", "last quarter", "served", "exploring costs")
    table = Table(*columns, title="points of success", caption=_CAPTION)
    for world, lives in lived.items():
        best = max(row.greedy.mean for row in rows(lives).values())
        for name, row in rows(lives).items():
            mark = "[bold]" if row.greedy.mean == best else ""
            cells = (
                f"{each.mean:.2f} ± {each.half:.2f}" for each in (row.greedy, row.late, row.taken, row.exploration)
            )
            table.add_row(world, mark + name, *cells)
        table.add_row(world, "[dim]oracle", f"{100 * lives.oracle.mean():.2f}", end_section=True)
    return table


if __name__ == "__main__":
    app()
