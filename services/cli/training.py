"""`pointsman data` and `pointsman train`: from labelled traffic to a version of a router."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from services.cli.options import settings

data = typer.Typer(help="The data that routers are trained on.", no_args_is_help=True)
console = Console()

File = Annotated[Path, typer.Argument(dir_okay=False, help="JSONL or Parquet, a row an example (docs/training.md).")]
DEFAULT_OUT = Path("routers")


@data.command()
def check(
    file: File,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share that is only judged on.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
) -> None:
    """Whether a file can be trained on: balance, duplicates, images. Exit code 1 if rows cannot be used."""
    from services.training import inspection  # pyarrow and FastAPI take a second

    report = inspection.check(file, held_out, seed)
    console.print(inspection.table(report))
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    for fault in report.faults[:20]:
        console.print(f"[bold red]error:[/] {escape(fault)}", soft_wrap=True)
    if report.faults:
        console.print(f"{len(report.faults)} of {report.rows} rows cannot be used", highlight=False)
        raise typer.Exit(1)


def train(
    file: Annotated[Path | None, typer.Argument(dir_okay=False, help="JSONL or Parquet (docs/training.md).")] = None,
    from_log: Annotated[
        Path | None, typer.Option("--from-log", dir_okay=False, help="Instead: a file of `pointsman export`.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="With --from-log: the router to better.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the router's versions.")] = DEFAULT_OUT,
    model: Annotated[str | None, typer.Option(help="Directory or hub name of the Qwen3-VL checkpoint.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Directory with one PEFT LoRA per subdirectory.")] = None,
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="YAML of options.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, weights and batches.")] = None,
    balanced: Annotated[bool | None, typer.Option(help="Every adapter equally often in the batches.")] = None,
    stages: Annotated[
        list[int] | None, typer.Option("--stage", min=1, max=3, help="Repeatable: 1 labels, 2 targets, 3 joint.")
    ] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Repeatable: adapters to route to.")] = None,
) -> None:
    """Train a router on examples, or on the decision log. Killed, the same command goes on; done, it finds its work."""
    if (file is None) == (from_log is None):
        raise typer.BadParameter("expected a file of examples, or --from-log with an exported log")
    if router and not from_log:
        raise typer.BadParameter(f"--router {router} without --from-log: a router is bettered from a log only")
    from services.training import summary  # torch takes seconds to import
    from services.training.config import TrainingConfig
    from services.training.from_log import FromLog
    from services.training.train import Training

    options = TrainingConfig.load(config, seed=seed, balanced=balanced, stages=stages or None, arms=arms or None)
    given = settings(model={"path": model, "adapters": adapters}, router={"path": router})
    if from_log and "path" not in given.router.model_fields_set:
        raise typer.BadParameter("--from-log without --router, expected the router to better (or router.path set)")
    if file:
        trained = Training(given, options, out, console).run(file)
    else:
        assert from_log
        trained = FromLog(given, options, out, console).run(from_log)
    if trained.found:
        console.print(f"{trained.version} was made by the same run before", highlight=False)
    console.print(summary.table(trained.known))
    for decision in trained.known["decisions"]:
        console.print(summary.decision(decision), highlight=False, soft_wrap=True, markup=False)
    if advice := trained.known["recommendation"]:
        console.print(f"serve [bold]{advice['way']}[/]: {escape(advice['reason'])}", highlight=False, soft_wrap=True)
    if "evaluation" in trained.known:
        console.print(summary.evaluation(trained.known["evaluation"]))
    for alarm in trained.known["alarms"]:
        console.print(f"[bold red]alarm:[/] {escape(alarm)}", soft_wrap=True)
    console.print(f"{trained.version}: router {trained.known['router']}", highlight=False, soft_wrap=True)
