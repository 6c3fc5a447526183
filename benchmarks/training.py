"""What training a router finds on the embedded world: with labels, without, unbalanced, jointly, and how to serve it.

Every figure is on held-out seeds. Success of hard routing is read from the outcome table, which the engine itself made;
what the table does not have (trained adapters, mixtures) is answered anew.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.reporting import Check, report
from benchmarks.routers import learning, serving
from benchmarks.routers.learning import train
from benchmarks.routers.world import World

ONE_FOR_ALL: Final = "one-for-all"

app = typer.Typer(add_completion=False)


@app.command()
def training(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer screens and rounds.")] = False,
    serve: Annotated[bool, typer.Option(help="Ask a running service, too.")] = True,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
) -> None:
    """Train, judge, and compare with one LoRA for all."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="pointsman-training-") as name:
        folder = Path(name)
        figures = _learned(folder, console, quick=quick, seed=seed)
        if serve:
            judged = [figures["world"].episodes[i] for i in figures["world"].judged]
            served = serving.serve(figures["labelled"].version, judged[:: 4 if quick else 3])
            figures["served"] = {way: found._asdict() for way, found in served.items()}
        shown = {"quick": quick, **_plain(figures)}
    report("Training a router", _table(shown), checks(shown), json_file, **shown)


def _learned(folder: Path, console: Console, *, quick: bool, seed: int) -> dict[str, Any]:
    seeds, common = (21, {"seed": seed, "measured": 16}) if quick else (90, {"seed": seed, "measured": 150})
    small = {"rounds": 4, "steps": 22, "batch_size": 12} if quick else {"rounds": 8, "steps": 20, "batch_size": 16}
    world = World.make(folder / "labelled.jsonl", seeds)
    unlabelled = World.make(folder / "unlabelled.jsonl", seeds, labelled=False)
    joint = {"rounds": 1, "steps": 3, "batch_size": 12} if quick else {"rounds": 3, "steps": 12, "batch_size": 16}
    out = folder / "routers"  # one for all: features are computed once
    first = train(world, out, console, stages=(1,), **common)
    labelled = train(world, out, console, stages=(1, 2, 3), end_to_end=_brief(small), joint=joint, **common)
    free = train(unlabelled, out, console, stages=(2,), end_to_end={**small, "kl": 0.0}, **common)
    uneven = learning.unbalanced(folder, out, console, seed=seed)
    return {"world": world, "first": first, "labelled": labelled, "free": free, "unbalanced": uneven}


def _brief(options: dict[str, Any]) -> dict[str, Any]:
    """From a start that knows its labels a third of the rounds is enough."""
    return {**options, "rounds": max(1, options["rounds"] // 3), "temperature_start": 0.5}


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as numbers and text."""
    world, first, labelled, free = (figures[name] for name in ("world", "first", "labelled", "free"))
    return {
        "held_out": len(world.judged),
        "accuracy": learning.accuracy(world, first),
        "oracle": world.oracle(),
        "success": {
            "stage 1": first.success,
            "stage 2, no labels": free.success,
            "best single": max(world.alone(arm) for arm in world.table.arms if arm != "base"),
            "base": world.alone("base"),
            ONE_FOR_ALL: world.alone(ONE_FOR_ALL),
        },
        "found_without_labels": world.found(free.chosen),
        "decisions": labelled.known["decisions"],
        "recommendation": labelled.known["recommendation"],
        "unbalanced": figures["unbalanced"],
        "losses_without_labels": [one["held_out_loss"] for one in free.known["stages"][0]["rounds"]],
        **({"served": figures["served"]} if "served" in figures else {}),
    }


def _table(shown: dict[str, Any]) -> Table:
    made = Table("held-out success", "by families", title=f"{shown['held_out']} held-out screens", title_justify="left")
    for name, value in sorted({**shown["success"], "oracle": shown["oracle"]}.items(), key=lambda one: -one[1]):
        made.add_row(name, f"{value:.3f}")
    made.add_section()
    for one in shown["decisions"]:
        made.add_row(
            f"{one['stage']} against {one['against']} (answers)", f"{one['success']:.3f} against {one['before']:.3f}"
        )
    for way, found in shown.get("served", {}).items():
        said = f"{found['success']:.3f}, {found['tokens_per_s']:.0f} tokens/s, agrees {found['agreement']:.2f}"
        made.add_row(f"{way} through HTTP", said)
    return made


def checks(shown: dict[str, Any]) -> list[Check]:
    """What is promised."""
    success, oracle = shown["success"], shown["oracle"]
    second = next(one for one in shown["decisions"] if one["stage"] == "stage 2")
    third = next(one for one in shown["decisions"] if one["stage"] == "stage 3")
    share = success["stage 2, no labels"] / oracle
    on, off = shown["unbalanced"]["on"], shown["unbalanced"]["off"]
    kept = second["success"] if second["kept"] else second["before"]
    final = third["success"] if third["kept"] else third["before"]
    return [
        Check("stage 1 accuracy", shown["accuracy"], "at least 0.95", shown["accuracy"] >= 0.95),
        Check("share of the oracle without labels", share, "at least 0.9", share >= 0.9),
        Check("stage 2 over stage 1", kept - second["before"], "at least 0", kept >= second["before"]),
        Check("stage 3 over stage 2, as kept", final - third["before"], "at least 0", final >= third["before"]),
        Check("rare recall, balanced", on["rare_recall"], "at least 0.9", on["rare_recall"] >= 0.9),
        Check("rare recall, unbalanced", off["rare_recall"], "at most 0.6", off["rare_recall"] <= 0.6),
        Check("alarms, balanced", len(on["alarms"]), "0", not on["alarms"]),
        Check("alarms, unbalanced", len(off["alarms"]), "at least 1", bool(off["alarms"])),
        Check(
            "routed specialists over one LoRA for all",
            success["stage 1"] - success[ONE_FOR_ALL],
            "above 0",
            success["stage 1"] > success[ONE_FOR_ALL],
        ),
    ]


if __name__ == "__main__":
    app()
