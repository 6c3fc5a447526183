"""The cache manager over a tier whose copies can be held up: who waits, who goes on, what is left behind."""

import asyncio
import contextlib
import copy
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from policies import caching
from services.adapters import files
from services.adapters.cache import AdapterCache
from services.adapters.files import AdapterFiles, Content
from services.adapters.metadata import AdapterLost, AdapterUnavailable, InvalidAdapter
from services.adapters.shelf import Adapter
from services.adapters.shelf import Shelf as RealShelf
from tests.services.world import write_adapter

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Blob:
    name: str
    pages: int
    nbytes: int = 10


class Device:
    """Eight pages. What is written where is kept, and `gate` holds copies up."""

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self.written: dict[int, str] = {}
        self.keys: dict[str, tuple[int, ...]] = {}
        self.copies: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def pages_of(self, rank: int) -> int:
        return rank

    def check(self, files: AdapterFiles) -> None:
        raise NotImplementedError

    def read(self, name: str, files: AdapterFiles, data: bytearray) -> Blob:
        return Blob(name, int(files.config["r"]), len(data))

    def page_in(self, key: str, host: Blob, pages: Sequence[int]) -> None:
        self.waiting.set()
        assert self.gate.wait(PATIENCE_S)
        assert len(set(pages)) == len(pages) == host.pages
        assert not {page for used in self.keys.values() for page in used} & set(pages)
        self.written |= dict.fromkeys(pages, host.name)
        self.keys[key] = tuple(pages)
        self.copies.append(host.name)

    def page_out(self, key: str) -> None:
        del self.keys[key]

    def serves(self, adapter: Adapter) -> bool:
        """Whether an adapter's own weights lie on all its pages."""
        return {self.written[page] for page in self.keys[adapter.fingerprint]} == {adapter.name}


class Shelf:
    """Adapters in memory; `broken` ones cannot be read, and `gate` holds reading up."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def read(self, adapter: Adapter) -> Content:
        self.reads.append(adapter.name)
        assert self.gate.wait(PATIENCE_S)
        if adapter.name in self.broken:
            raise InvalidAdapter(f"{adapter.name} is broken")
        described = AdapterFiles(adapter.path, {"r": adapter.rank}, {}, adapter.size)
        return Content(described, bytearray(adapter.size), adapter.fingerprint)


def adapter(name: str, pages: int = 1) -> Adapter:
    return Adapter(name, name, f"hash-{name}", pages, (), 10)


A, B, C, D = (adapter(name, 3) for name in "abcd")


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.gate.set()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def cache(device: Device, shelf: Shelf) -> AsyncIterator[AdapterCache[Blob]]:
    made = AdapterCache(device, shelf.read, caching.create("lru"), host_bytes=1000)
    yield made
    device.gate.set()
    made.check_integrity()
    await asyncio.to_thread(made.close)


async def serve(cache: AdapterCache[Blob], *adapters: Adapter) -> None:
    async with cache.pin(adapters):
        cache.check_integrity()


class Request:
    """A request that holds its adapters until it is told to end."""

    def __init__(self, cache: AdapterCache[Blob], *adapters: Adapter) -> None:
        self._ended = asyncio.Event()
        self.served = asyncio.Event()
        self._task = asyncio.create_task(self._run(cache, adapters))

    async def _run(self, cache: AdapterCache[Blob], adapters: Sequence[Adapter]) -> None:
        async with cache.pin(adapters):
            self.served.set()
            await self._ended.wait()

    async def start(self) -> "Request":
        await asyncio.wait_for(self.served.wait(), PATIENCE_S)
        return self

    async def end(self) -> None:
        self._ended.set()
        await self._task

    async def cancel(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (what is waited for is no event)
            await asyncio.sleep(0.001)


async def test_what_was_needed_longest_ago_leaves_for_what_is_needed(cache: AdapterCache[Blob], device: Device) -> None:
    for each in (A, B, A, C):
        await serve(cache, each)
    assert set(cache.resident) == {A.fingerprint, C.fingerprint}
    assert device.copies == ["a", "b", "c"]
    view = cache.view()
    assert (view.hits, view.misses, view.page_ins, view.evictions) == (1, 3, 3, {"room": 1})
    assert (view.free, [entry.name for entry in view.device]) == (2, ["a", "c"])
    assert view.page_in_ms.p50 is not None


async def test_what_is_in_use_stays_until_its_last_request_ends(cache: AdapterCache[Blob]) -> None:
    first, second = await Request(cache, A).start(), await Request(cache, A, B).start()
    third = Request(cache, C)
    await first.end()
    assert not third.served.is_set()
    cache.check_integrity()
    assert cache.view().waiting == 1
    await second.end()
    await third.start()
    assert C.fingerprint in cache.resident
    await third.end()


async def test_a_mixture_gets_all_its_adapters_at_once_or_none(cache: AdapterCache[Blob], device: Device) -> None:
    """Two halves of a mixture that each took one adapter and waited for the other would wait for ever."""
    holder = await Request(cache, A).start()
    mixtures = [Request(cache, B, C), Request(cache, C, B)]
    await asyncio.sleep(0)
    assert device.copies == ["a"]
    await holder.end()
    for mixture in mixtures:
        await mixture.start()
        await mixture.end()


async def test_one_that_waits_for_a_copy_does_not_hold_up_another(cache: AdapterCache[Blob], device: Device) -> None:
    await serve(cache, A)
    device.gate.clear()
    waiting = Request(cache, B)
    await until(device.waiting.is_set)
    await serve(cache, A)
    assert not waiting.served.is_set()
    device.gate.set()
    await waiting.start()
    await waiting.end()


async def test_requests_for_one_adapter_share_its_copy(cache: AdapterCache[Blob], device: Device, shelf: Shelf) -> None:
    await asyncio.gather(*[serve(cache, A) for _ in range(5)])
    assert (device.copies, shelf.reads) == (["a"], ["a"])


async def test_host_memory_saves_reading_again(cache: AdapterCache[Blob], shelf: Shelf) -> None:
    for each in (A, B, C, A, B):
        await serve(cache, each)
    assert shelf.reads == ["a", "b", "c"]
    assert (cache.view().page_ins, cache.view().disk_reads) == (5, 3)


async def test_host_memory_is_bounded(device: Device, shelf: Shelf) -> None:
    cache = AdapterCache(device, shelf.read, caching.create("lru"), host_bytes=20)
    for each in (A, B, C, A, C):
        await serve(cache, each)
    assert cache.view().host == ("c", "a")
    assert cache.view().host_bytes == 20
    assert shelf.reads == ["a", "b", "c", "a"]
    cache.check_integrity()
    cache.close()


async def test_a_cancelled_load_leaves_nothing_behind(cache: AdapterCache[Blob], device: Device) -> None:
    device.gate.clear()
    leaving, queued = Request(cache, A), Request(cache, B)
    await until(device.waiting.is_set)
    await leaving.cancel()
    await queued.cancel()
    cache.check_integrity()
    device.gate.set()
    await until(lambda: cache.view().free == device.capacity)
    assert (cache.resident, device.keys, device.copies) == ((), {}, ["a"])
    assert cache.view().evictions == {"abandoned": 2}


async def test_a_load_that_somebody_else_waits_for_goes_on(cache: AdapterCache[Blob], device: Device) -> None:
    device.gate.clear()
    leaving, staying = Request(cache, A), Request(cache, A)
    await until(device.waiting.is_set)
    await leaving.cancel()
    device.gate.set()
    await staying.start()
    assert device.copies == ["a"]
    await staying.end()


async def test_a_load_that_was_given_up_is_begun_again_for_who_comes_meanwhile(
    cache: AdapterCache[Blob], device: Device
) -> None:
    """Its thread has found that nobody waits; the loop has not heard of that when the next request comes."""
    held = threading.Event()
    cache._disk.submit(held.wait)
    leaving = Request(cache, A)
    await until(lambda: cache._disk._work_queue.qsize() == 1)
    await leaving.cancel()
    held.set()
    time.sleep(0.2)  # noqa: ASYNC251 - the thread has found it, and the loop hears of nothing
    coming = Request(cache, A)
    await coming.start()
    assert device.serves(A)
    await coming.end()


async def test_one_that_gives_up_in_line_holds_nobody_up(cache: AdapterCache[Blob]) -> None:
    holder = await Request(cache, A, B).start()
    first, second = Request(cache, C), Request(cache, A)
    await second.start()
    await first.cancel()
    cache.check_integrity()
    await second.end()
    await holder.end()


async def test_the_first_in_line_is_not_passed_for_ever(cache: AdapterCache[Blob]) -> None:
    """Overlapping requests for what is resident would keep the room that it waits for in use."""
    running = [await Request(cache, A, B).start()]
    wide = Request(cache, C)
    for _ in range(500):
        running.append(Request(cache, A, B))
        await asyncio.sleep(0)
        if not running[-1].served.is_set():
            break
        await running.pop(0).end()
    assert not running[-1].served.is_set()
    await running[0].end()
    await wide.start()
    await wide.end()
    await running[-1].start()
    await running[-1].end()


async def test_nobody_takes_the_pages_that_the_first_in_line_waits_for(cache: AdapterCache[Blob]) -> None:
    small = adapter("small", 2)
    holder = await Request(cache, A, B).start()
    first, later = Request(cache, C), Request(cache, small)
    await asyncio.sleep(0)
    assert not later.served.is_set()  # two pages are free, but they are the first one's
    await holder.end()
    await first.start()
    await later.start()
    await first.end()
    await later.end()


async def test_what_cannot_be_read_fails_those_who_need_it_and_nobody_else(
    cache: AdapterCache[Blob], shelf: Shelf
) -> None:
    shelf.broken = {"b"}
    running = await Request(cache, A).start()
    results = await asyncio.gather(serve(cache, B), serve(cache, A, B), serve(cache, A), return_exceptions=True)
    assert [type(result) for result in results] == [AdapterLost, AdapterLost, type(None)]
    assert "adapter 'b' cannot be loaded: b is broken" in str(results[0])
    cache.check_integrity()
    assert cache.view().free == 5
    assert cache.view().broken == {"b": "b is broken"}
    shelf.broken = set()
    await serve(cache, B)
    assert cache.view().broken == {}
    await running.end()


async def test_a_mixture_of_which_two_cannot_be_read_lets_go_of_all(cache: AdapterCache[Blob], shelf: Shelf) -> None:
    """The second one fails before the request has heard of the first."""
    shelf.broken = {"b", "c"}
    shelf.gate.clear()
    mixture = asyncio.create_task(serve(cache, A, adapter("b"), adapter("c")))
    await until(lambda: shelf.reads == ["a"])
    shelf.gate.set()
    time.sleep(0.2)  # noqa: ASYNC251 - all is read, and the loop hears of nothing
    with pytest.raises(AdapterLost):
        await mixture
    cache.check_integrity()
    await until(lambda: not any(entry.pins for entry in cache.view().device))
    assert cache.view().broken.keys() == {"b", "c"}


async def test_what_could_not_be_read_is_worth_another_try_after_a_while(device: Device, shelf: Shelf) -> None:
    now = 100.0
    cache = AdapterCache(device, shelf.read, caching.create("lru"), host_bytes=1000, clock=lambda: now)
    shelf.broken = {"b"}
    with pytest.raises(AdapterLost) as told:
        await serve(cache, B)
    lost = copy.copy(told.value)
    assert (str(lost), lost.adapter, lost.fingerprint) == (str(told.value), "b", B.fingerprint)
    assert cache.broken == (B.fingerprint,)
    now += 11
    assert cache.broken == tuple[str]()
    assert cache.view().broken == {"b": "b is broken"}
    cache.close()


async def test_more_than_there_is_room_for_is_refused_at_once(cache: AdapterCache[Blob]) -> None:
    with pytest.raises(AdapterUnavailable, match=r"9 pages of adapters, expected at most 8 \(cache.device_rows\)"):
        await serve(cache, A, B, C)


class TestFollowing:
    async def test_what_is_no_more_leaves_with_its_last_request(self, cache: AdapterCache[Blob]) -> None:
        running = await Request(cache, A).start()
        await serve(cache, B)
        cache.follow([C])
        assert cache.resident == ()
        assert [(entry.name, entry.outdated) for entry in cache.view().device] == [("a", True)]
        await running.end()
        assert cache.view().device == ()
        assert cache.view().host == ()
        assert cache.view().evictions == {"outdated": 2}

    async def test_what_is_no_more_while_a_request_waits_for_room_serves_it_and_leaves(
        self, cache: AdapterCache[Blob]
    ) -> None:
        cache.follow([A, B, C])
        holder = await Request(cache, A, B).start()
        waiting = Request(cache, C)
        await asyncio.sleep(0)
        cache.follow([A, B])
        await holder.end()
        await waiting.start()
        cache.check_integrity()
        assert C.fingerprint not in cache.resident
        await waiting.end()
        assert "c" not in {entry.name for entry in cache.view().device}
        assert "c" not in cache.view().host

    async def test_what_is_no_more_is_not_told_of_as_broken(self, cache: AdapterCache[Blob], shelf: Shelf) -> None:
        cache.follow([A, B])
        cache.follow([A])
        shelf.broken = {"b"}
        with pytest.raises(AdapterLost):
            await serve(cache, B)
        assert cache.view().broken == {}

    async def test_what_is_no_more_when_it_has_been_read_is_not_kept_on_the_host(
        self, cache: AdapterCache[Blob], shelf: Shelf
    ) -> None:
        cache.follow([A, B])
        shelf.gate.clear()
        request = Request(cache, A)
        await until(lambda: shelf.reads == ["a"])
        cache.follow([B])
        shelf.gate.set()
        await request.start()
        await request.end()
        assert (cache.view().device, cache.view().host) == ((), ())

    async def test_what_is_kept_comes_unasked_and_leaves_only_for_a_request_that_finds_no_other_room(
        self, cache: AdapterCache[Blob]
    ) -> None:
        await serve(cache, A)
        cache.follow([A, B, C, D], kept=[B.fingerprint, C.fingerprint])
        await until(lambda: set(cache.resident) == {B.fingerprint, C.fingerprint})
        running = await Request(cache, A).start()
        assert len(cache.resident) == 2
        await running.end()
        await until(lambda: set(cache.resident) == {B.fingerprint, C.fingerprint})

    async def test_what_cannot_be_fetched_ahead_is_not_tried_for_ever(
        self, cache: AdapterCache[Blob], shelf: Shelf
    ) -> None:
        shelf.broken = {"b"}
        cache.follow([A, B], kept=[B.fingerprint])
        await until(lambda: shelf.reads == ["b"])
        await serve(cache, A)
        assert shelf.reads == ["b", "a"]

    async def test_a_plan_is_prefetched(self, device: Device, shelf: Shelf) -> None:
        """Into free room at once, and where there is another when nobody has needed that for some plans."""
        cache = AdapterCache(device, shelf.read, caching.create("polar"), host_bytes=1000)
        await serve(cache, A)
        cache.follow([A, B, C])
        for _ in range(9):
            cache.plan([C.fingerprint, B.fingerprint])
            await until(lambda: set(cache.resident) == {A.fingerprint, C.fingerprint})
        cache.plan([C.fingerprint, B.fingerprint])
        await until(lambda: set(cache.resident) == {B.fingerprint, C.fingerprint})
        assert cache.view().plan == ("c", "b")
        assert cache.view().evictions == {"plan": 1}
        cache.follow([A, C])  # the catalogue has changed, the plan has not
        assert cache.view().plan == ("c",)
        cache.check_integrity()
        cache.close()

    async def test_a_plan_takes_no_pages_from_what_is_asked_for_again_and_again(
        self, device: Device, shelf: Shelf
    ) -> None:
        cache = AdapterCache(device, shelf.read, caching.create("polar"), host_bytes=1000)
        cache.follow([A, B, C])
        cache.plan([B.fingerprint, C.fingerprint])
        await until(lambda: set(cache.resident) == {B.fingerprint, C.fingerprint})
        for _ in range(20):
            await serve(cache, A)
            await serve(cache, B)
            cache.plan([B.fingerprint, C.fingerprint])
        assert (cache.view().misses, cache.view().hits) == (1, 39)
        cache.check_integrity()
        cache.close()

    async def test_a_version_that_was_read_for_a_change_is_never_served_as_the_one_before(
        self, device: Device, shelf: Shelf
    ) -> None:
        """A Router may know of the change first, and host memory need not have kept what was read."""
        cache = AdapterCache(device, shelf.read, caching.create("lru"), host_bytes=0)
        old, new = (Adapter("a", "a", fingerprint, 3, (), 10) for fingerprint in ("old", "new"))
        cache.follow([old])
        assert cache.latest(old) is old
        assert cache.latest(new) is new
        cache.follow([new])
        assert cache.latest(old) is new
        cache.follow([new, B])
        assert cache.latest(old) is new
        cache.follow([old, B])
        assert cache.latest(old) is old
        assert cache.latest(new) is old
        cache.close()


async def test_closing_fails_who_waits(device: Device, shelf: Shelf) -> None:
    cache = AdapterCache(device, shelf.read, caching.create("lru"), host_bytes=1000)
    holder = await Request(cache, A, B).start()
    waiting = asyncio.create_task(serve(cache, C))
    await asyncio.sleep(0)
    cache.close()
    with pytest.raises(AdapterUnavailable, match="stopping"):
        await waiting
    await holder.end()


@pytest.mark.parametrize("policy", ["lru", "lfu", "gdsf"])
@pytest.mark.parametrize("seed", range(4))
async def test_random_loads_neither_lose_a_page_nor_serve_another_adapter(
    device: Device, shelf: Shelf, policy: str, seed: int
) -> None:
    """Forty adapters over eight pages; requests come, give up, fail and end in any order, adapters come and go."""
    chance = random.Random(seed)
    cache = AdapterCache(device, shelf.read, caching.create(policy), host_bytes=100)
    adapters = [adapter(f"adapter{number}", chance.choice([1, 1, 2, 3])) for number in range(40)]
    shelf.broken = {"adapter3", "adapter17"}
    served = 0

    async def request() -> None:
        nonlocal served
        wanted = chance.sample(adapters, chance.choice([1, 1, 1, 2]))
        with contextlib.suppress(AdapterUnavailable):
            async with asyncio.timeout(chance.choice([None, None, 0.002])):
                async with cache.pin(wanted):
                    for _ in range(chance.randrange(4)):
                        assert all(map(device.serves, wanted))
                        await asyncio.sleep(0)
                        cache.check_integrity()
                    served += 1

    async def change() -> None:
        while True:
            there = chance.sample(adapters, chance.randrange(10, 41))
            cache.follow(there, kept=[each.fingerprint for each in there[:3]])
            cache.check_integrity()
            await asyncio.sleep(0.003 * chance.random())

    changing = asyncio.create_task(change())
    results = await asyncio.wait_for(
        asyncio.gather(*[request() for _ in range(200)], return_exceptions=True), PATIENCE_S
    )
    assert [result for result in results if result and not isinstance(result, TimeoutError)] == []
    assert served > 20
    changing.cancel()
    cache.follow(adapters)
    await until(lambda: cache.view().waiting == 0 and all(entry.ready for entry in cache.view().device))
    assert not any(entry.pins for entry in cache.view().device)
    cache.check_integrity()
    cache.close()


async def test_files_that_were_replaced_are_not_served_as_what_they_were(device: Device, tmp_path: Path) -> None:
    shelf = RealShelf([tmp_path])
    known = shelf.describe("mine", str(write_adapter(tmp_path, "mine")))
    write_adapter(tmp_path, "mine", weight=2.0)
    cache = AdapterCache(device, shelf.read, caching.create("lru"), host_bytes=1000)
    with pytest.raises(AdapterUnavailable, match=f"content hash .*, expected {known.fingerprint}"):
        await serve(cache, known)
    await serve(cache, shelf.describe("mine", str(tmp_path / "mine")))
    assert cache.resident == (files.describe(tmp_path / "mine")[1],)
    cache.close()
