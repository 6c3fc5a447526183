"""The routed engine against PEFT: tokens per second, the price of adapters and mixtures, on two models, on CPU.

32 requests of different lengths arrive one after the other under 8 adapters on all seven projections. PEFT has them all
at once, as static batches with `adapter_names`, and one by one with `set_adapter`. No answer ends before its length.
Beside that, how much later the first token of a routed request comes than that of a pinned one.
"""

from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import torch
import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks.engines.measure import Figures, measure
from benchmarks.engines.models import MODELS
from benchmarks.engines.ttft import FirstTokens, first_tokens
from benchmarks.reporting import Check, report

_GOALS = {  # model: (× static, × one by one, room above the dense bound)
    "embedded": (3.0, 6.0, None),
    "large": (1.5, 3.0, 0.10),
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write raw figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter requests, one repetition.")] = False,
    threads: Annotated[int, typer.Option(help="Torch CPU threads.")] = 1,
    only: Annotated[Literal["embedded", "large", ""], typer.Option(help="One model alone.")] = "",
) -> None:
    """Measure both models and hold the figures against the goals."""
    torch.set_num_threads(threads)
    names = [only] if only else list(MODELS)
    figures: dict[str, Figures] = {}
    first: dict[str, FirstTokens] = {}
    with Progress() as progress:
        for name in names:
            figures[name] = measure(MODELS[name], name, progress, quick=quick)
            first[name] = first_tokens(MODELS[name], name, progress, quick=quick)
    checks = [check for name in names for check in checks_of(name, figures[name])]
    checks += [_most(f"{name}: first token, auto ÷ pinned", first[name].ratio, 1.15) for name in names]
    raw: dict[str, Any] = {name: figures[name]._asdict() | {"first_tokens": first[name]._asdict()} for name in names}
    table = table_of(figures)
    for way in FirstTokens._fields:
        table.add_row(f"first token, {way}", *[f"{1000 * median(getattr(of, way)):.1f} ms" for of in first.values()])
    report("engine", table, checks, json, threads=threads, torch=torch.__version__, models=raw)


def table_of(figures: dict[str, Figures]) -> Table:
    """Seconds of each way to answer the requests, the median of the repetitions."""
    table = Table("way", *figures)
    for way in next(iter(figures.values())).seconds:
        table.add_row(way, *[f"{figure.typical(way):.2f} s" for figure in figures.values()])
    table.add_row(
        "routed, tokens/s", *[f"{figure.tokens / figure.typical('routed'):.0f}" for figure in figures.values()]
    )
    return table


def checks_of(name: str, figures: Figures) -> list[Check]:
    """The figures that the engine promises."""
    static, single, room = _GOALS[name]
    checks = [
        _least(f"{name}: × static batches of PEFT", figures.ratio("PEFT static", "routed"), static),
        _least(f"{name}: × PEFT one by one", figures.ratio("PEFT one by one", "routed"), single),
        _most(f"{name}: 64 adapters resident, 8 active ÷ none", figures.ratio("routed, 64 resident", "base"), 1.25),
        _most(f"{name}: mixtures of 3 ÷ single adapters", figures.ratio("mixtures of 3", "routed"), 1.10),
        _most(
            f"{name}: states of encode kept ÷ computed again", figures.ratio("base, states kept", "base, encoded"), 1
        ),
    ]
    if room is not None:
        checks.append(_most(f"{name}: 8 adapters ÷ none", figures.ratio("routed", "base"), figures.bound + room))
    return checks


def _least(name: str, value: float, goal: float) -> Check:
    return Check(name, value, f"≥ {goal:.3g}", value >= goal)


def _most(name: str, value: float, goal: float) -> Check:
    return Check(name, value, f"≤ {goal:.4g}", value <= goal)


if __name__ == "__main__":
    app()
