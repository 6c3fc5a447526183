"""How long a choice and an update take, on one thread, beside ParetoBandit's policy and MABWiser in the same run.

`python -m benchmarks.bandit_speed --json FILE`. Times are medians in µs; the contenders take turns within every
repeat, so that a busy moment of the machine meets all of them.
"""

from pathlib import Path
from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from benchmarks.reporting import report
from benchmarks.speed.measure import measure
from benchmarks.speed.stream import long_stream
from benchmarks.speed.summary import checks, table

SIZES = ((16, 64), (64, 64), (256, 64))
LARGE = (1000, 129)
QUICK_STREAM = 20_000


def main(
    json: Annotated[Path | None, typer.Option(help="File for the raw figures and the checks.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer repeats: at most a minute.")] = False,
    stream: Annotated[int, typer.Option(help="Rewards of the long-stream test; 0: 20,000.")] = 0,
) -> None:
    """Measure, print, and exit with 1 if a promised figure is not met."""
    repeats, rewards = 60 if quick else 400, stream or QUICK_STREAM
    with threadpool_limits(limits=1):
        measured = [measure(arms, d, repeats, peers=True) for arms, d in SIZES]
        large = measure(*LARGE, max(20, repeats // 10), peers=False)
        error = long_stream(rewards)
    raw = [size.raw() for size in (*measured, large)]
    report("bandit_speed", table([*measured, large]), checks(measured, large, error, rewards), json, sizes=raw)


if __name__ == "__main__":
    typer.run(main)
