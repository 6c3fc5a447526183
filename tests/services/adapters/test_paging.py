"""The real engine behind a cache with room for two pages: every answer is the one of its adapters alone."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from policies import caching
from services.adapters.cache import AdapterCache
from services.adapters.shelf import Adapter, Shelf
from services.engine.base import Sampling
from services.engine.routed import RoutedEngine
from services.engine.routed.layout import HostAdapter
from services.model.replica import ModelReplica
from tests.services.engine.oracle import Oracle, random_oracle
from tests.services.engine.prompts import PROMPTS

TOKENS = 12
SHELF = Shelf([Path("/")])
PROMPT = PROMPTS["text only"]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return random_oracle("one key for all heads", tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def engine(oracle: Oracle) -> Iterator[RoutedEngine]:
    engine = RoutedEngine(oracle.checkpoint, max_batch=4, encode_blocks=1, kv_tokens=1024, device_rows=16)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(oracle: Oracle) -> Iterator[RoutedEngine]:
    engine = RoutedEngine(oracle.checkpoint, oracle.adapters, max_batch=4, encode_blocks=1, kv_tokens=1024)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def adapters(oracle: Oracle) -> dict[str, Adapter]:
    return {name: SHELF.describe(name, str(path)) for name, path in oracle.adapters.items()}


@pytest.fixture
async def cache(engine: RoutedEngine) -> AsyncIterator[AdapterCache[HostAdapter]]:
    cache = AdapterCache(engine.device, SHELF.read, caching.create("lru"), host_bytes=1 << 20)
    yield cache
    cache.check_integrity()
    cache.follow([])
    cache.close()


async def say(replica: ModelReplica, gates: Mapping[str, float], adapters: Mapping[str, Adapter]) -> str:
    deltas = replica.generate(PROMPT, gates, Sampling(TOKENS), adapters)
    return "".join([delta.text async for delta in deltas])


async def say_alone(engine: RoutedEngine, gates: Mapping[str, float]) -> str:
    return "".join([delta.text async for delta in engine.generate(PROMPT, gates, Sampling(TOKENS))])


async def test_every_answer_is_that_of_its_adapters_however_they_come_and_go(
    engine: RoutedEngine, alone: RoutedEngine, cache: AdapterCache[HostAdapter], adapters: dict[str, Adapter]
) -> None:
    replica = ModelReplica(engine, cache, SHELF)
    kinds: list[dict[str, float]] = [{}, *({name: 1.0} for name in adapters), {"all": 0.5, "single": -2.0}]
    expected = [await say_alone(alone, gates) for gates in kinds]
    assert len({*expected}) == len(kinds)
    found = await asyncio.gather(*[say(replica, gates, adapters) for _ in range(4) for gates in kinds])
    assert found == expected * 4
    view = cache.view()
    assert view.page_ins > len(adapters)
    assert view.disk_reads == len(adapters)
    assert (await replica.encode(PROMPT)).report.resident == tuple(entry.fingerprint for entry in view.device)


async def test_those_that_leave_let_go_of_their_adapters(
    engine: RoutedEngine, alone: RoutedEngine, cache: AdapterCache[HostAdapter], adapters: dict[str, Adapter]
) -> None:
    replica = ModelReplica(engine, cache, SHELF)
    leaving = [
        asyncio.create_task(say(replica, {name: 1.0}, adapters)) for name in ("wide", "all", "patterned", "wide")
    ]
    for task in leaving:
        await asyncio.sleep(0.01)
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*leaving, return_exceptions=True)
    assert await say(replica, {"late": 1.0}, adapters) == await say_alone(alone, {"late": 1.0})
    assert not any(entry.pins for entry in cache.view().device)


async def test_running_requests_keep_the_weights_that_they_began_with(
    engine: RoutedEngine, alone: RoutedEngine, cache: AdapterCache[HostAdapter], adapters: dict[str, Adapter],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Four run or wait under the old version when the files are replaced; those that come later get the new one."""
    folder = Path(shutil.copytree(adapters["all"].path, tmp_path / "mine"))
    replica, old = ModelReplica(engine, cache, SHELF), SHELF.describe("mine", str(folder))
    early = [asyncio.create_task(say(replica, {"mine": 1.0}, {"mine": old})) for _ in range(6)]
    while old.fingerprint not in cache.resident:  # noqa: ASYNC110 (what is waited for is no event)
        await asyncio.sleep(0.001)
    shutil.rmtree(folder)
    shutil.copytree(adapters["single"].path, folder)
    new = await replica.load("mine", str(folder))
    cache.follow([new])
    late = [asyncio.create_task(say(replica, {"mine": 1.0}, {"mine": new})) for _ in range(3)]
    assert await asyncio.gather(*early) == [await say_alone(alone, {"all": 1.0})] * 6
    assert await asyncio.gather(*late) == [await say_alone(alone, {"single": 1.0})] * 3
    assert cache.resident == (new.fingerprint,)
