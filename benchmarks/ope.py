"""Do off-policy intervals cover, and are logs refused that cannot know?  python -m benchmarks.ope [--quick] [--json F]

Independent logs are drawn from the outcome table, where the value of every policy is known, with a fixed and with an
adapting LinUCB. A coverage is held against its goal with the error of its own sample: of few logs less can be said.
"""

import math
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import typer
from rich.table import Table

from benchmarks import worlds
from benchmarks.offpolicy.logs import Logger, Logging
from benchmarks.offpolicy.open_bandit import PointError, point_errors
from benchmarks.reporting import Check, report
from examples.miniwob.reporting import progress_bar
from policies.evaluation import NotEvaluable, evaluate

_LEVEL: Final = 0.95
_TOLERANCE: Final = 0.03
_CERTAIN: Final = 20
_ESTIMATORS: Final = ("ips", "snips", "dr")
_LOGGINGS: Final[tuple[Logging, ...]] = ("fixed", "adaptive")

app = typer.Typer(add_completion=False)


class Cell(NamedTuple):
    """A candidate under one logging and one estimator: errors and interval widths a log, and how many covered."""

    errors: list[float]
    widths: list[float]
    covered: list[bool]


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help="Few and short logs.")] = False,
    logs: Annotated[int | None, typer.Option(help="Independent logs of each logging.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write raw figures and checks.")] = None,
) -> None:
    """Coverage of the intervals over independent logs, refusals, and point errors on the Open Bandit sample."""
    sizes = (5000,) if quick else (5000, 5000, 5000, 20_000)
    logger = Logger(worlds.embedded())
    cells, refused = _cover(logger, logs or (20 if quick else 500), sizes)
    uncertain = _refusals(logger)
    errors = point_errors()
    checks = [
        *(_covers(name, cell) for name, cell in cells.items() if name[2] != "ips"),
        Check("logs without exploration refused", uncertain, f"{_CERTAIN} of {_CERTAIN}", uncertain == _CERTAIN),
        Check("other logs refused", refused, "0", refused == 0),
    ]
    figures = {" ".join(name): cell._asdict() for name, cell in cells.items()}
    report(
        "off-policy evaluation",
        _table(cells, errors),
        checks,
        json,
        sizes=sizes,
        cells=figures,
        open_bandit=_raw(errors),
    )


def _cover(logger: Logger, logs: int, sizes: tuple[int, ...]) -> tuple[dict[tuple[str, str, str], Cell], int]:
    cells: dict[tuple[str, str, str], Cell] = defaultdict(lambda: Cell([], [], []))
    refused = 0
    candidates = logger.candidates(np.random.default_rng(0))
    with progress_bar("logs", logs * len(_LOGGINGS)) as advance:
        for number in range(logs):
            for logging in _LOGGINGS:
                rng = np.random.default_rng([number, _LOGGINGS.index(logging)])
                log, rows = logger.draw(logging, sizes[number % len(sizes)], rng)
                for name, target in candidates.items():
                    try:
                        found = evaluate(log, target[rows], level=_LEVEL)
                    except NotEvaluable:
                        refused += 1
                        continue
                    truth = logger.truth(target)
                    for estimator in _ESTIMATORS:
                        value, low, high = found.estimates[estimator]
                        cell = cells[logging, name, estimator]
                        cell.errors.append(value - truth)
                        cell.widths.append(high - low)
                        cell.covered.append(low <= truth <= high)
                advance()
    return dict(cells), refused


def _refusals(logger: Logger) -> int:
    """How many logs of a policy that never explores are refused, asked about another one."""
    target = logger.candidates(np.random.default_rng(0))["trained"]
    refused = 0
    for seed in range(_CERTAIN):
        log, rows = logger.draw("certain", 2000, np.random.default_rng([seed, 2]))
        try:
            evaluate(log, target[rows])
        except NotEvaluable:
            refused += 1
    return refused


def _covers(name: tuple[str, str, str], cell: Cell) -> Check:
    n = len(cell.covered)
    share = sum(cell.covered) / n
    noise = 2 * math.sqrt(_LEVEL * (1 - _LEVEL) / n) if n < 500 else 0.0
    goal = f"{_LEVEL} ± {_TOLERANCE}" + (f" (± {noise:.3f}, {n} logs)" if noise else f", {n} logs")
    return Check(f"coverage of {' '.join(name)}", share, goal, abs(share - _LEVEL) <= _TOLERANCE + noise)


def _table(cells: dict[tuple[str, str, str], Cell], errors: list[PointError]) -> Table:
    table = Table("logging", "policy", "estimator", "logs", "bias", "RMSE", "interval width", "covered")
    for name, (error, width, covered) in cells.items():
        rmse = math.sqrt(sum(e * e for e in error) / len(error))
        figures = (f"{np.mean(error):+.4f}", f"{rmse:.4f}", f"{np.mean(width):.4f}", f"{np.mean(covered):.3f}")
        table.add_row(*name, str(len(error)), *figures)
    table.add_section()
    for policy, clicks, evaluation in errors:
        for estimator in _ESTIMATORS:
            error_of = evaluation.estimates[estimator].value - clicks
            table.add_row("Open Bandit", policy, estimator, "1", f"{error_of:+.5f}", f"of {clicks:.5f}", "", "")
    return table


def _raw(errors: list[PointError]) -> dict[str, dict[str, float]]:
    return {
        policy: {"own log": clicks, **{name: evaluation.estimates[name].value for name in _ESTIMATORS}}
        for policy, clicks, evaluation in errors
    }


if __name__ == "__main__":
    app()
