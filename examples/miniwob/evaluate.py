"""What the embedded world shows: arms × families on held-out screens, measured anew, and how far x tells them apart."""

from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.reporting import Check, report
from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.families import FAMILIES, KEPT
from examples.miniwob.measurement import measure_world
from examples.miniwob.outcomes import Outcomes, matrix
from examples.miniwob.paths import OUTCOMES
from examples.miniwob.probe import probe
from examples.miniwob.recipes import ONE_FOR_ALL
from services.adapters.registry import BASE

_QUICK: Final = 8
"""Screens a family that --quick measures anew."""
_QUICK_PROBE: Final = 60
"""Screens a family that --quick probes."""

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    quick: Annotated[bool, typer.Option(help="Measure a sample anew, take the rest from the table.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Write what was measured to world/outcomes.json.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Engines at a time, one CPU thread each.")] = 2,
) -> None:
    """Measure every arm on the recorded held-out screens, print arms × families, and check what the world promises."""
    if quick and save:
        raise typer.BadParameter("--save: a sample is no table, expected a run without --quick")
    episodes = load_all()
    measured = measure_world(sample(episodes, _QUICK) if quick else episodes, processes)
    if save:
        measured.save()
    table = Outcomes.load() if OUTCOMES.exists() else measured
    shown = table if quick else measured
    figures = {**success(shown), "probe": probe(sample(episodes, _QUICK_PROBE) if quick else episodes)}
    figures["agreement"] = agreement(measured, table)
    Console(width=200).print(matrix(shown))
    report("The embedded world", summary(figures), checks(figures), json_file, **figures)


def sample(episodes: list[Episode], n: int) -> list[Episode]:
    """About n episodes of each family, evenly spaced, the same at every call."""
    of = {family: [episode for episode in episodes if episode.family == family] for family in KEPT}
    return [episode for rows in of.values() for episode in rows[:: max(1, len(rows) // n) | 1]]


def agreement(measured: Outcomes, table: Outcomes) -> float:
    """Share of the measured cells that the table has too; 0 where it is of other adapters."""
    if (measured.adapters, measured.columns) != (table.adapters, table.columns):
        return 0.0
    return mean(
        was == now for id_, row in measured.table.items() for was, now in zip(table.table[id_], row, strict=True)
    )


def success(table: Outcomes) -> dict[str, Any]:
    """The table's rates: by column and family, and of the choices that are compared."""
    families = table.families
    rates = {column: {family: table.rate(ids, column) for family, ids in families.items()} for column in table.columns}
    means = {column: mean(of.values()) for column, of in rates.items()}
    best_single = max(table.adapters.keys() & set(table.arms), key=lambda arm: (means[arm], arm))
    return {
        "rates": rates,
        "best_own": {family: rates[table.best_own(family)][family] for family in families},
        "base": means[BASE],
        "best_single": {"arm": best_single, "mean": means[best_single]},
        "one_for_all": means[ONE_FOR_ALL.name],
        "adapters": len(table.arms) - 1,
        "whole_tasks": {family: whole_tasks(table, family) for family in families if len(FAMILIES[family].steps) > 1},
        "episodes": {family: len({id_.split("/")[1] for id_ in ids}) for family, ids in families.items()},
    }


def whole_tasks(table: Outcomes, family: str) -> float:
    """Share of the family's seeds of which its best adapter gets every click right."""
    arm, seeds = table.best_own(family), {id_.rpartition("/")[0] for id_ in table.families[family]}
    steps = range(1, len(FAMILIES[family].steps) + 1)
    return mean(all(table.success(f"{seed}/{step}", arm) for step in steps) for seed in seeds)


def summary(figures: dict[str, Any]) -> Table:
    """What is compared, in one table."""
    shown = Table("mean success over families, equally weighted", "value")
    single = figures["best_single"]
    for name, value in {
        "best of each family's own adapters": mean(figures["best_own"].values()),
        f"best single adapter ({single['arm']})": single["mean"],
        "base": figures["base"],
        "one LoRA trained on all families (comparison)": figures["one_for_all"],
        **{f"whole tasks of {family}, all clicks right": rate for family, rate in figures["whole_tasks"].items()},
        **{f"linear probe on {part}, newer families": rate for part, rate in figures["probe"].items()},
    }.items():
        shown.add_row(name, f"{value:.3f}")
    return shown


def checks(figures: dict[str, Any]) -> list[Check]:
    """What the world promises."""
    own, episodes = figures["best_own"], figures["episodes"]
    average = mean(own.values())
    floors = {
        "mean of the best own adapters": (average, 0.85),
        f"worst family, {min(own, key=own.__getitem__)}": (min(own.values()), 0.70),
        "own above the base": (average - figures["base"], 0.25),
        "own above the best single adapter": (average - figures["best_single"]["mean"], 0.25),
        "linear probe on x, newer families": (figures["probe"]["x"], 0.9),
        "families": (len(own), 8),
        "adapters": (figures["adapters"], 10),
        "held-out seeds of a family, at least": (min(episodes.values()), 200),
        "measured anew as in the table": (figures["agreement"], 0.98),
    }
    return [Check(name, value, f"≥ {floor:g}", value >= floor) for name, (value, floor) in floors.items()]


if __name__ == "__main__":
    app()
