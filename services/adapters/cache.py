"""The cache manager of one replica: disk, host memory, device pages. A request holds what it needs to its last token.

All books are kept on one event loop; reading files and copying to the device happen in two threads beside it, so that
neither holds up the other nor the engine.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, Generic, NamedTuple

from policies.caching import ResidencyPolicy
from services.adapters.cache_view import CacheView, Counts, Quantiles, view_of
from services.adapters.files import Content
from services.adapters.host import HostTier
from services.adapters.metadata import AdapterLost, AdapterUnavailable, InvalidAdapter
from services.adapters.page_table import PageTable
from services.adapters.shelf import Adapter
from services.adapters.tiers import B, DeviceTier

_PASSES: Final = 64
"""Requests that may go first, as all they need is resident, while the first in line waits for room."""
_AVOIDED_S: Final = 10.0
"""How long others are asked first for what could not be loaded; then it is worth another try."""


@dataclass(eq=False)
class _Ticket:
    """One request's claim on all its adapters at once."""

    sizes: Mapping[str, int]
    served: asyncio.Future[None]
    held: set[str] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)
    passed: int = 0


class _Fault(NamedTuple):
    """Why an adapter could not be loaded, and when, by the cache's clock."""

    why: str
    time: float


class _Abandoned(Exception):
    """Nobody waits for the adapter any more."""


class AdapterCache(Generic[B]):
    """Pages adapters in for requests, ahead of them for pins and plans, and out when there is no room."""

    def __init__(
        self,
        device: DeviceTier[B],
        read: Callable[[Adapter], Content],
        policy: ResidencyPolicy,
        *,
        host_bytes: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`read` gives an adapter's files, of exactly its content hash; it runs in a thread. Raises InvalidAdapter."""
        self._device = device
        self._read = read
        self._clock = clock
        self._table = PageTable(device.capacity, policy)
        self._host: HostTier[B] = HostTier(host_bytes)
        self._counts = Counts()
        self._adapters: dict[str, Adapter] = {}
        self._current: frozenset[str] | None = None
        self._former: frozenset[str] = frozenset()  # what was current and is no more
        self._queue: list[_Ticket] = []  # in order of arrival
        self._loading: list[_Ticket] = []
        self._held: Counter[str] = Counter()
        self._broken: dict[str, _Fault] = {}  # only who asks for it has it tried again
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._disk = ThreadPoolExecutor(1, "adapter-disk")
        self._copies = ThreadPoolExecutor(1, "adapter-copy")

    @property
    def resident(self) -> tuple[str, ...]:
        """Content hashes of the adapters that serve without being paged in."""
        return tuple(key for key in self._table.ready if key not in self._table.outdated)

    @property
    def arriving(self) -> tuple[str, ...]:
        """Content hashes of the adapters that are on their way to the device."""
        return tuple(key for key in self._table if not self._table[key].ready)

    @property
    def broken(self) -> tuple[str, ...]:
        """Content hashes of the adapters that could not be loaded lately."""
        now = self._clock()
        return tuple(key for key, fault in self._broken.items() if now - fault.time < _AVOIDED_S)

    @property
    def page_in_ms(self) -> float:
        """What the latest page-ins took, in the median; 0 before the first."""
        return Quantiles.of(self._counts.page_in_ms).p50 or 0.0

    @contextlib.asynccontextmanager
    async def pin(self, adapters: Iterable[Adapter]) -> AsyncIterator[None]:
        """Hold adapters on the device, all at once; waits until they are there.

        Raises AdapterUnavailable for one that cannot be loaded, AdapterLost if that is for its files, and for more than
        the device has room for, which nobody asks for who knows the versions of now.
        """
        ticket = self._ticket(adapters)
        try:
            await ticket.served
            yield
        finally:
            self._release(ticket)

    def latest(self, adapter: Adapter) -> Adapter:
        """The version to serve for one that may have been replaced since it was chosen: itself while it is here."""
        key = adapter.fingerprint
        if key not in self._former or key in self._table or key in self._host:
            return adapter  # what was never heard of here is newer
        named = (self._adapters[known] for known in self._current or () if self._adapters[known].name == adapter.name)
        return next(named, adapter)

    async def load(self, adapter: Adapter) -> None:
        """Read an adapter into host memory, if it is not there or beyond. Raises InvalidAdapter."""
        key = adapter.fingerprint
        if key not in self._host and key not in self._table.ready:
            self._host.put(key, await self._in(self._disk, self._fetch, adapter))
        self._broken.pop(key, None)
        self._adapters[key] = adapter

    def follow(self, current: Collection[Adapter], kept: Collection[str] = ()) -> None:
        """Take over which adapters there are; those to keep, by content hash.

        All others leave as soon as no request holds them, the plan's too.
        """
        there = frozenset(adapter.fingerprint for adapter in current)
        self._former = (self._former | (self._current or frozenset())) - there
        self._current = there
        self._adapters |= {adapter.fingerprint: adapter for adapter in current}
        self._host.keep_only(there)
        self._broken = {key: fault for key, fault in self._broken.items() if key in there}
        self._table.kept = frozenset(kept) & there
        self._table.policy.plan([key for key in self._table.policy.target if key in there])
        self._left(self._table.outdate([key for key in self._table if key not in there]))
        needed = there.union(self._table, *[ticket.sizes for ticket in self._queue])
        self._adapters = {key: adapter for key, adapter in self._adapters.items() if key in needed}
        self._go_on()

    @property
    def pages(self) -> int:
        """Pages on the device."""
        return self._table.capacity

    def plan(self, target: Sequence[str]) -> None:
        """Aim at these content hashes, most wanted first, if the policy follows plans.

        To be told at regular times, also if they are the same: what was needed within the last few is left where it is.
        """
        self._table.plan(target)
        self._go_on()

    def view(self) -> CacheView:
        """What is where, and what has happened so far; with what `check_integrity` finds now."""
        waiting, broken = len(self._queue) + len(self._loading), {key: why for key, (why, _) in self._broken.items()}
        view = view_of(self._table, self._host, self._adapters, self._counts, waiting, broken)
        try:
            self.check_integrity()
        except RuntimeError as error:
            return replace(view, problem=str(error))
        return view

    def check_integrity(self) -> None:
        """RuntimeError if the books do not agree with each other and with the requests that hold something."""
        self._table.check_integrity(self._held)
        self._host.check_integrity()
        tickets = Counter(key for ticket in self._loading for key in ticket.held)
        if wrong := [key for key in tickets if tickets[key] > self._held[key]]:
            raise RuntimeError(f"{wrong} are held less often than requests wait for them")
        if on_their_way := self._tasks.keys() ^ {key for key in self._table if not self._table[key].ready}:
            raise RuntimeError(f"{sorted(on_their_way)} are loaded without pages, or have pages without being loaded")

    def close(self) -> None:
        """Fail whoever waits; returns when nothing is read or copied any more."""
        for ticket in (*self._queue, *self._loading):
            _fail(ticket, AdapterUnavailable("the service is stopping"))
        for threads in (self._disk, self._copies):
            threads.shutdown(cancel_futures=True)

    def _ticket(self, adapters: Iterable[Adapter]) -> _Ticket:
        by_key = {adapter.fingerprint: adapter for adapter in adapters}
        sizes = {key: self._device.pages_of(adapter.rank) for key, adapter in by_key.items()}
        if (needed := sum(sizes.values())) > self._table.capacity:
            most = f"expected at most {self._table.capacity} (cache.device_rows)"
            raise AdapterUnavailable(f"gates: {needed} pages of adapters, {most}")
        self._adapters |= by_key
        self._table.policy.requested(tuple(by_key))
        hits = sum(key in self._table and self._table[key].ready for key in by_key)
        self._counts.hits += hits
        self._counts.misses += len(by_key) - hits
        ticket = _Ticket(sizes, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._go_on()
        return ticket

    def _release(self, ticket: _Ticket) -> None:
        for waiting in (self._queue, self._loading):
            if ticket in waiting:
                waiting.remove(ticket)
        self._let_go(ticket)
        self._go_on()

    def _let_go(self, ticket: _Ticket) -> None:
        held, ticket.held = ticket.held, set()
        self._held -= Counter(held)
        self._left(self._table.release(held))

    def _go_on(self) -> None:
        """Admit whom there is room for; the first in line is passed by a bounded number of times, and never for pages.

        What is to be there without being asked for is fetched while nobody waits for room.
        """
        first: _Ticket | None = None
        for ticket in list(self._queue):
            if first and (first.passed >= _PASSES or any(key not in self._table for key in ticket.sizes)):
                continue
            if not self._admit(ticket):
                first = first or ticket
            elif first:
                first.passed += 1
        if not self._queue:
            self._fetch_ahead()

    def _admit(self, ticket: _Ticket) -> bool:
        reserved = self._table.reserve(ticket.sizes)
        if reserved is None:
            return False
        self._queue.remove(ticket)
        self._left(reserved.evicted)
        ticket.held = set(ticket.sizes)
        self._held.update(ticket.held)
        for key in reserved.missing:
            self._start(key)
        ticket.waits = {key for key in ticket.sizes if not self._table[key].ready}
        if ticket.waits:
            self._loading.append(ticket)
        else:
            _serve(ticket)
        return True

    def _fetch_ahead(self) -> None:
        wanted = [*sorted(self._table.kept - set(self._table.ready)), *self._table.policy.missing()]
        for key in wanted:
            if self._tasks:
                return  # one at a time, and after what is asked for
            adapter = self._adapters.get(key)
            if adapter is None or key in self._table or key in self._broken:
                continue
            reserved = self._table.reserve_ahead(key, self._device.pages_of(adapter.rank))
            if reserved:
                self._left(reserved.evicted)
                self._start(key)

    def _start(self, key: str) -> None:
        if key in self._former:
            self._table.outdated.add(key)  # it leaves with who asked for it
        self._tasks[key] = asyncio.get_running_loop().create_task(self._load(self._adapters[key]))

    async def _load(self, adapter: Adapter) -> None:
        key, start = adapter.fingerprint, self._clock()
        try:
            blob = self._host.get(key)
            if blob is None:
                blob = await self._in(self._disk, self._fetch_wanted, adapter)
                self._counts.disk_reads += 1
                if key not in self._former:
                    self._host.put(key, blob)
            await self._in(self._copies, self._copy, key, blob)
        except _Abandoned:
            self._over(key)
            if self._table.is_wanted(key):
                self._start(key)  # somebody came while the thread said so
            else:
                self._table.drop(key, "abandoned")
        except Exception as error:
            self._over(key)
            self._failed(key, error)
        else:
            self._over(key)
            self._arrived(key, (self._clock() - start) * 1000)
        self._go_on()

    def _over(self, key: str) -> None:
        del self._tasks[key]

    def _arrived(self, key: str, ms: float) -> None:
        if not self._table.arrived(key, ms):
            self._device.page_out(key)
            return
        self._broken.pop(key, None)
        self._counts.paged_in(ms)
        for ticket in [ticket for ticket in self._loading if key in ticket.waits]:
            ticket.waits.discard(key)
            if not ticket.waits:
                self._loading.remove(ticket)
                _serve(ticket)

    def _failed(self, key: str, error: Exception) -> None:
        self._table.drop(key, "failed")
        if key not in self._former:
            self._broken[key] = _Fault(str(error), self._clock())
        del self._held[key]
        name = self._adapters[key].name
        said = f"adapter {name!r} cannot be loaded: {error}"
        lost = isinstance(error, InvalidAdapter | OSError)
        for ticket in [ticket for ticket in self._loading if key in ticket.held]:
            ticket.held.discard(key)
            self._loading.remove(ticket)
            self._let_go(ticket)  # now: another of its adapters may fail before it hears of this
            _fail(ticket, AdapterLost(said, name, key) if lost else AdapterUnavailable(said))

    def _left(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._device.page_out(key)

    async def _in(self, threads: ThreadPoolExecutor, function: Callable[..., B], *args: object) -> B:
        return await asyncio.get_running_loop().run_in_executor(threads, function, *args)

    def _fetch(self, adapter: Adapter) -> B:
        content = self._read(adapter)
        return self._device.read(adapter.name, content.files, content.data)

    def _fetch_wanted(self, adapter: Adapter) -> B:
        self._refuse_unwanted(adapter.fingerprint)
        return self._fetch(adapter)

    def _copy(self, key: str, blob: B) -> B:
        self._refuse_unwanted(key)
        pages = self._table[key].pages
        if blob.pages != len(pages):
            raise InvalidAdapter(f"{blob.pages} pages, expected {len(pages)}")
        start = self._clock()
        self._device.page_in(key, blob, pages)
        self._counts.copied((self._clock() - start) * 1000)
        return blob

    def _refuse_unwanted(self, key: str) -> None:
        if not self._table.is_wanted(key):
            raise _Abandoned


def _serve(ticket: _Ticket) -> None:
    if not ticket.served.done():
        ticket.served.set_result(None)


def _fail(ticket: _Ticket, error: Exception) -> None:
    if not ticket.served.done():
        ticket.served.set_exception(error)
