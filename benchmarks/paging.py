"""What paging costs: beside a memcpy of the same bytes, for the rows that go on meanwhile, and for answers under load.

The embedded Qwen3-VL on CPU with PEFT adapters of random weights. The same trace of requests runs with every adapter
resident, and with room for eight on the device and a quarter in host memory; what differs is paging alone.
"""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Final, NamedTuple

import numpy as np
import torch
import typer
from rich.table import Table

from benchmarks.engines.models import MODELS, write_adapters
from benchmarks.reporting import Check, report
from policies import caching
from services.adapters.cache import AdapterCache
from services.adapters.shelf import Adapter, Shelf
from services.adapters.tiers import PAGE
from services.engine.base import Message, Part, Prompt, Sampling
from services.engine.routed import RoutedEngine
from services.engine.routed.layout import HostAdapter
from services.model.replica import ModelReplica

_MODEL: Final = "embedded"
_ROOM: Final = 8  # pages of the small device
_STD: Final = 0.2  # of the weights: large enough that every adapter answers in its own way
_STEADY: Final = 4  # rows that need no page-in
_PATIENCE_S: Final = 600.0
_PROMPT: Final = Prompt((Message("user", (Part(text="Click on the red box."),)),))

app = typer.Typer(add_completion=False)


class Copies(NamedTuple):
    """Milliseconds of paging one adapter in from host memory, and of copying as many bytes, in pairs."""

    page_in: list[float]
    memcpy: list[float]
    size: int  # bytes

    @property
    def ratio(self) -> float:
        """The median over pairs."""
        return median(a / b for a, b in zip(self.page_in, self.memcpy, strict=True))


class Gaps(NamedTuple):
    """99% quantiles, in milliseconds, of the time between two tokens of the steady rows; and page-ins meanwhile."""

    resident: list[float]
    paged: list[float]
    page_ins: int

    @property
    def ratio(self) -> float:
        """The median over pairs of runs."""
        return median(a / b for a, b in zip(self.paged, self.resident, strict=True))


class Load(NamedTuple):
    """What became of requests over far more adapters than there is room for."""

    requests: int
    asked: int  # adapters
    answers: int  # different ones among theirs
    wrong: int
    page_ins: int
    disk_reads: int
    seconds: float


@dataclass(frozen=True)
class Replica:
    """An engine behind a cache."""

    engine: RoutedEngine
    cache: AdapterCache[HostAdapter]
    model: ModelReplica
    adapters: Mapping[str, Adapter]

    async def say(self, name: str, tokens: int) -> AsyncIterator[str]:
        """The answer under an adapter, piece by piece."""
        async for delta in self.model.generate(_PROMPT, {name: 1.0}, Sampling(tokens), self.adapters):
            yield delta.text


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write raw figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer adapters, requests and repetitions.")] = False,
    threads: Annotated[int, typer.Option(help="Torch CPU threads.")] = 1,
) -> None:
    """Measure and hold the figures against the goals."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        copies, gaps, load = asyncio.run(_measure(Path(folder), quick))
    checks = [
        Check("page-in ÷ memcpy of the same bytes", copies.ratio, "≤ 2", copies.ratio <= 2),
        Check("p99 between tokens of steady rows, paging ÷ all resident", gaps.ratio, "≤ 1.2", gaps.ratio <= 1.2),
        Check("different answers ÷ adapters", load.answers / load.asked, "≥ 0.9", load.answers >= 0.9 * load.asked),
        Check("wrong answers", load.wrong, "0", load.wrong == 0),
        Check(
            "page-ins under load ÷ requests",
            load.page_ins / load.requests,
            "≥ 0.3",
            load.page_ins >= 0.3 * load.requests,
        ),
    ]
    raw = {"copies": copies._asdict(), "gaps": gaps._asdict(), "load": load._asdict()}
    report("paging", _table(copies, gaps, load), checks, json, threads=threads, torch=torch.__version__, **raw)


async def _measure(folder: Path, quick: bool) -> tuple[Copies, Gaps, Load]:
    subject, count = MODELS[_MODEL], 60 if quick else 200
    paths = write_adapters(subject.make(), subject.rank, count, folder, std=_STD)
    shelf = Shelf([folder])
    adapters = {name: shelf.describe(name, str(path)) for name, path in paths.items()}
    size = max(adapter.size for adapter in adapters.values())
    async with (
        _replica(adapters, shelf, pages=count, host_bytes=count * size) as resident,
        _replica(adapters, shelf, pages=_ROOM, host_bytes=count * size // 4) as small,
    ):
        copies = _copies(small.engine, shelf, list(adapters.values())[:8], repetitions=40 if quick else 400)
        gaps = await _gaps(resident, small, repetitions=3 if quick else 9, tokens=200 if quick else 600)
        load = await asyncio.wait_for(_load(resident, small, 120 if quick else 1000), _PATIENCE_S)
    return copies, gaps, load


@asynccontextmanager
async def _replica(
    adapters: Mapping[str, Adapter], shelf: Shelf, *, pages: int, host_bytes: int
) -> AsyncIterator[Replica]:
    checkpoint = MODELS[_MODEL].make()
    with closing(RoutedEngine(checkpoint, kv_tokens=16384, max_batch=16, device_rows=pages * PAGE)) as engine:
        cache = AdapterCache(engine.device, shelf.read, caching.create("lru"), host_bytes=host_bytes)
        with closing(cache):
            yield Replica(engine, cache, ModelReplica(engine, cache, shelf), adapters)
            cache.check_integrity()


def _copies(engine: RoutedEngine, shelf: Shelf, adapters: Sequence[Adapter], repetitions: int) -> Copies:
    """Page adapters of the host in, one after the other; a plain copy of as many bytes in turn with it."""
    device, found = engine.device, Copies([], [], 0)
    hosts = []
    for adapter in adapters:
        content = shelf.read(adapter)
        hosts.append(device.read(adapter.name, content.files, content.data))
    found = found._replace(size=hosts[0].nbytes)
    plain = torch.empty(len(hosts), hosts[0].data.numel())
    sources = [host.data.flatten().clone() for host in hosts]
    for number in range(repetitions):
        at = number % len(hosts)
        pages = range(at * hosts[at].pages, (at + 1) * hosts[at].pages)
        found.page_in.append(_ms(lambda at=at, pages=pages: device.page_in("measured", hosts[at], pages)))  # type: ignore[misc]
        found.memcpy.append(_ms(lambda at=at: plain[at].copy_(sources[at])))  # type: ignore[misc]
        device.page_out("measured")
    return found


async def _gaps(resident: Replica, small: Replica, repetitions: int, tokens: int) -> Gaps:
    """Steady rows decode while requests for one adapter after the other come and go, each for one token."""
    names = list(resident.adapters)
    steady, others = names[:_STEADY], itertools.cycle(names[_STEADY:])
    found = Gaps([], [], 0)
    for replica in (resident, small):
        await _steady(replica, steady, others, 20)
    before = small.cache.view().page_ins
    for _ in range(repetitions):
        wanted = [next(others) for _ in range(len(names))]
        found.resident.append(await _steady(resident, steady, iter(itertools.cycle(wanted)), tokens))
        found.paged.append(await _steady(small, steady, iter(itertools.cycle(wanted)), tokens))
    return found._replace(page_ins=small.cache.view().page_ins - before)


async def _steady(replica: Replica, steady: Sequence[str], others: Iterator[str], tokens: int) -> float:
    """p99 in milliseconds of the steady rows' gaps."""
    gaps: list[float] = []

    async def decode(name: str) -> None:
        last = 0.0
        async for _ in replica.say(name, tokens):
            now = time.perf_counter()
            if last:
                gaps.append((now - last) * 1000)
            last = now

    async def come_and_go() -> None:
        while True:
            async for _ in replica.say(next(others), 1):
                pass
            await asyncio.sleep(0.01)

    beside = asyncio.create_task(come_and_go())
    await asyncio.gather(*map(decode, steady))
    beside.cancel()
    await asyncio.wait([beside])
    return float(np.quantile(gaps, 0.99))


async def _load(resident: Replica, small: Replica, requests: int) -> Load:
    """Thirty-two at a time over all adapters, most for few of them; each answer beside the one with all resident."""
    chance = random.Random(7)
    names = list(resident.adapters)
    weights = [1 / (rank + 1) ** 0.8 for rank in range(len(names))]
    wanted = chance.choices(names, weights, k=requests)
    expected = {name: await _whole(resident, name) for name in dict.fromkeys(wanted)}
    before, start, room = small.cache.view(), time.perf_counter(), asyncio.Semaphore(32)

    async def ask(name: str) -> bool:
        async with room:
            return await _whole(small, name) == expected[name]

    right = await asyncio.gather(*map(ask, wanted))
    after = small.cache.view()
    return Load(
        requests,
        len(expected),
        len({*expected.values()}),
        right.count(False),
        after.page_ins - before.page_ins,
        after.disk_reads - before.disk_reads,
        time.perf_counter() - start,
    )


async def _whole(replica: Replica, name: str) -> str:
    return "".join([text async for text in replica.say(name, 12)])


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def _table(copies: Copies, gaps: Gaps, load: Load) -> Table:
    table = Table("what", "paged", "beside", title="paging", title_justify="left")
    size = f"{copies.size / 1024:.0f} KiB"
    table.add_row(f"an adapter of {size} to the device", *_row(copies.page_in, copies.memcpy, "memcpy"))
    table.add_row(f"p99 between tokens, {gaps.page_ins} page-ins", *_row(gaps.paged, gaps.resident, "all resident"))
    done = f"{load.requests} requests in {load.seconds:.1f} s, {load.page_ins} page-ins, {load.disk_reads} from disk"
    table.add_row(f"answers over {_ROOM} pages", done, f"{load.wrong} differ from all resident")
    return table


def _row(paged: list[float], other: list[float], name: str) -> tuple[str, str]:
    return f"{median(paged):.3f} ms", f"{median(other):.3f} ms ({name})"


if __name__ == "__main__":
    app()
