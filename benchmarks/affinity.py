"""What the placement is worth: two Model replicas under a skewed load, with it and with Ray Serve's own choice.

Both services run side by side on one Ray cluster, over the same adapters of random weights, with room for a quarter of
them on a device and none in host memory; each block of requests is sent to one and then to the other, in turns. Then a
replica of the first is killed with -9 under load, again and again.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.table import Table

from benchmarks.placing.comparing import Block, Comparison, compare
from benchmarks.placing.killing import Healing, kill
from benchmarks.placing.world import REPLICAS, Services, services
from benchmarks.reporting import Check, report

_ADAPTERS: Final = 20
_ROOM: Final = 5
_WHOLE_S: Final = 60.0

app = typer.Typer(add_completion=False)


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write raw figures here.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer requests, one kill; two services must start: minutes, not one.")
    ] = False,
) -> None:
    """Measure and hold the figures against the goals."""
    blocks, length, kills = (6, 60, 1) if quick else (16, 150, 4)
    with tempfile.TemporaryDirectory() as folder, services(Path(folder), _ADAPTERS, _ROOM) as (urls, names):
        found, healings = asyncio.run(_measure(urls, names, blocks, length, kills))
    gain = found.gain
    strangers = sum(healing.others for healing in healings)
    slowest = max(healing.whole_s for healing in healings)
    checks = [
        Check("hit rate with the placement − without, mean over blocks", gain.mean, "> 0", gain.mean > 0),
        Check("… lower end of its 95% interval", gain.low, "> 0", gain.low > 0),
        Check("failed requests before anything was killed", found.failed, "0", found.failed == 0),
        Check("failed requests that were not at the killed replica", strangers, "0", strangers == 0),
        Check("seconds until the view is whole again, at most", slowest, f"≤ {_WHOLE_S:g}", slowest <= _WHOLE_S),
    ]
    setting = {"adapters": _ADAPTERS, "room": _ROOM, "replicas": REPLICAS, "start_s": urls.start_s}
    raw = {"gain": gain._asdict(), "kills": [each._asdict() for each in healings]}
    report("affinity", _table(found, healings), checks, json, **setting, **raw, blocks=found.raw)


async def _measure(
    urls: Services, names: list[str], blocks: int, length: int, kills: int
) -> tuple[Comparison, list[Healing]]:
    found = await compare(urls, names, blocks, length)
    return found, [await kill(urls.placed, names, seed) for seed in range(kills)]


def _table(found: Comparison, healings: list[Healing]) -> Table:
    title = f"{REPLICAS} replicas, {_ADAPTERS} adapters, room for {_ROOM} on each"
    table = Table("replica chosen by", "hit rate", "page-ins", "p50 to first token", "p99", title=title)
    for name, blocks in (
        ("the placement", [pair.placed for pair in found.pairs]),
        ("Serve", [pair.anywhere for pair in found.pairs]),
    ):
        table.add_row(name, *_figures(blocks))
    table.caption = "\n".join(f"kill {number}: {_said(each)}" for number, each in enumerate(healings, 1))
    return table


def _said(each: Healing) -> str:
    failed = f"{each.own} of its own and {each.others} others failed"
    return f"{each.answered} answered, {each.resent} sent again, {failed}; whole after {each.whole_s:.1f} s"


def _figures(blocks: list[Block]) -> list[str]:
    hits, misses = sum(block.hits for block in blocks), sum(block.misses for block in blocks)
    p50, p99 = np.quantile([ms for block in blocks for ms in block.first_ms], [0.5, 0.99])
    page_ins = sum(block.page_ins for block in blocks)
    return [f"{hits / (hits + misses):.3f}", f"{page_ins}", f"{p50:.0f} ms", f"{p99:.0f} ms"]


if __name__ == "__main__":
    app()
