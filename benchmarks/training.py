"""What training a router finds on the embedded world: with labels, without, unbalanced, jointly, and how to serve it.

Every figure is on seeds that no training has seen, not even to choose its best round. Success of hard routing is read
from the outcome table, which the engine itself made; trained adapters and the service are asked anew.
"""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.reporting import Check, report
from benchmarks.routers import learning, serving
from benchmarks.routers.learning import OFTEN, Trainer
from benchmarks.routers.world import World
from examples.miniwob.paths import ADAPTERS, COMPARISONS
from services.adapters.files import inspect

ONE_FOR_ALL: Final = "one-for-all"

app = typer.Typer(add_completion=False)


@app.command()
def training(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer screens and rounds.")] = False,
    serve: Annotated[bool | None, typer.Option(help="Ask a running service, too; by default unless --quick.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Keep all work there; stopped, the same command goes on.")] = None,
) -> None:
    """Train, judge, compare with one LoRA for all, and ask a running service."""
    serves = not quick if serve is None else serve
    with tempfile.TemporaryDirectory(prefix="pointsman-training-") as name:
        work = folder or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        shown = {"quick": quick, "seed": seed, **_figures(work, seed, quick=quick, serves=serves)}
    Console().print(_losses(shown))
    report("Training a router", _table(shown), checks(shown), json_file, **shown)


def _figures(folder: Path, seed: int, *, quick: bool, serves: bool) -> dict[str, Any]:
    """Everything, as numbers and text."""
    seeds, unseen, measured = (15, 12, 12) if quick else (45, 60, 60)
    second = {"rounds": 1, "steps": 10, "batch_size": 12} if quick else {"rounds": 2, "steps": 20, "batch_size": 16}
    third = {"rounds": 1, "steps": 3, "batch_size": 12} if quick else {"rounds": 2, "steps": 12, "batch_size": 16}
    trainer = Trainer(folder, Console(), seed)
    world = World.make(folder / "labelled.jsonl", seeds, unseen)
    told = trainer.train(
        world,
        stages=(1, 2, 3),
        measured=measured,
        end_to_end={**second, "temperature_start": 0.5},
        joint=third,
    )
    untold = World.make(folder / "unlabelled.jsonl", seeds, unseen, labelled=False)
    blind = {**second, "kl": 0.0, "temperature_start": 0.5, "probes": 48 if quick else 128}
    free = trainer.train(untold, stages=(2,), measured=0, end_to_end=blind)
    every = 4 if quick else 3
    asked = world.unseen[::every]
    one, oracle = world.alone(ONE_FOR_ALL), world.best()
    figures = {
        "unseen": len(world.unseen),
        "accuracy": learning.accuracy(world, told.raw["stage 1"]),
        "success": {
            "oracle": world.success(oracle),
            "stage 1": world.success(told.raw["stage 1"]),
            "stage 2": world.success(told.raw["stage 2"]),
            "as kept": world.success(told.kept),
            "no labels": world.success(free.raw["stage 2"]),
            "best single": max(world.success(world.alone(arm)) for arm in world.table.arms if arm != "base"),
            "base": world.success(world.alone("base")),
            ONE_FOR_ALL: world.success(one),
        },
        "by_family": {
            ONE_FOR_ALL: world.by_family(world.earned(one)),
            "routed": world.by_family(world.earned(told.raw["stage 1"])),
            "oracle": world.by_family(world.earned(oracle)),
        },
        "parameters": {ONE_FOR_ALL: parameters([ONE_FOR_ALL], COMPARISONS), "routed": parameters(set(world.own()))},
        "found_without_labels": learning.found(world, free.raw["stage 2"]),
        "answers": {"episodes": len(asked), **learning.answered(trainer, world, told, every)},
        "kept": told.known["kept"],
        "decisions": told.known["decisions"],
        "recommendation": told.known["recommendation"],
        "unbalanced": learning.unbalanced(trainer, folder, min(unseen, 30)),
    }
    if not quick:
        slowly = {"rounds": 5, "steps": 20, "batch_size": 16, "learning_rate": 2e-3, "kl": 0.0, "probes": 0}
        alone = trainer.train(untold, stages=(2,), measured=0, end_to_end=slowly)
        figures["success"]["no labels, mixture alone"] = world.success(alone.raw["stage 2"])
    if serves:
        served = serving.serve(told.version, asked)
        figures["served"] = {way: found._asdict() for way, found in served.items()}
    return figures


def parameters(adapters: Iterable[str], folder: Path = ADAPTERS) -> int:
    """Weights of some adapters together."""
    return sum(math.prod(tensor.shape) for name in adapters for tensor in inspect(folder / name).tensors.values())


def _losses(shown: dict[str, Any]) -> Table:
    """Families that hurt each other: what one LoRA for all loses against routed ones with as many weights together."""
    made = Table("", "weights", *shown["by_family"]["oracle"], "mean", title="Success by family", title_justify="left")
    for name, values in shown["by_family"].items():
        weights = shown["parameters"].get(name)
        cells = [f"{value:.3f}" for value in values.values()]
        made.add_row(name, f"{weights:,}" if weights else "", *cells, f"{sum(values.values()) / len(values):.3f}")
    return made


def _table(shown: dict[str, Any]) -> Table:
    made = Table("success", "by families", title=f"{shown['unseen']} unseen screens", title_justify="left")
    for name, value in sorted(shown["success"].items(), key=lambda one: -one[1]):
        made.add_row(name, f"{value:.3f}")
    made.add_section()
    for name, value in shown["answers"].items():
        if name != "episodes":
            made.add_row(f"{name}, {shown['answers']['episodes']} real answers", f"{value:.3f}")
    for one in shown["decisions"]:
        verdict = "kept" if one["kept"] else "rolled back"
        made.add_row(
            f"{one['stage']} against {one['against']}, held-out",
            f"{one['success']:.3f} against {one['before']:.3f}: {verdict}",
        )
    made.add_section()
    for name, said in (("on", "balanced"), ("off", "not balanced"), ("long", "not balanced, to its end")):
        one = shown["unbalanced"][name]
        made.add_row(
            f"20 × {OFTEN}, {said}, {one['epochs']} epochs",
            f"recall of the others {one['rare_recall']:.3f}, {len(one['alarms'])} alarms",
        )
    for way, found in shown.get("served", {}).items():
        told = f"{found['success']:.3f}, {found['tokens_per_s']:.0f} tokens/s, agrees {found['agreement']:.3f}"
        made.add_row(f"{way} through HTTP", told)
    return made


def checks(shown: dict[str, Any]) -> list[Check]:
    """What is promised."""
    success, unbalanced = shown["success"], shown["unbalanced"]
    share = success["no labels"] / success["oracle"]
    over, kept = success["stage 2"] - success["stage 1"], success["as kept"] - success["stage 1"]
    on, off = unbalanced["on"], unbalanced["off"]
    gain = success["stage 1"] - success[ONE_FOR_ALL]
    budget = shown["parameters"]["routed"] / shown["parameters"][ONE_FOR_ALL]
    made = [
        Check("stage 1 accuracy", shown["accuracy"], "at least 0.95", shown["accuracy"] >= 0.95),
        Check("share of the oracle without labels", share, "at least 0.9", share >= 0.9),
        Check("stage 2 over stage 1", over, "at least 0", over >= 0),
        Check("what was kept over stage 1", kept, "at least 0", kept >= 0),
        Check("rare recall, balanced", on["rare_recall"], "at least 0.9", on["rare_recall"] >= 0.9),
        Check("rare recall, not balanced", off["rare_recall"], "at most 0.6", off["rare_recall"] <= 0.6),
        Check("alarms, balanced", len(on["alarms"]), "0", not on["alarms"]),
        Check("alarms, not balanced", len(off["alarms"]), "at least 1", bool(off["alarms"])),
        Check("routed specialists over one LoRA for all", gain, "above 0", gain > 0),
        Check("weights of the specialists, relative to its", budget, "at most 1.01", budget <= 1.01),
    ]
    if "served" in shown:
        apart = abs(shown["served"]["hard"]["success"] - shown["answers"][shown["kept"]])
        made.append(Check("hard through HTTP, apart from the engine's answers", apart, "at most 0.01", apart <= 0.01))
    return made


if __name__ == "__main__":
    app()
