"""What an operator sees of a replica's cache."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.adapters.host import HostTier
from services.adapters.page_table import PageTable
from services.adapters.shelf import Adapter

_RECENT: Final = 1000


@dataclass
class Counts:
    """What has happened since the replica started; milliseconds are those of the latest page-ins."""

    hits: int = 0
    misses: int = 0
    page_ins: int = 0
    disk_reads: int = 0
    page_in_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    copy_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def paged_in(self, ms: float) -> None:
        """An adapter is on the device, so long after its pages were reserved."""
        self.page_ins += 1
        self.page_in_ms.append(ms)

    def copied(self, ms: float) -> None:
        """A copy from host to device took so long."""
        self.copy_ms.append(ms)


@dataclass(frozen=True)
class Quantiles:
    """Of the latest thousand; none before the first."""

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, values: deque[float]) -> "Quantiles":
        """Nearest-rank quantiles."""
        ranked = sorted(values)
        return cls(*(ranked[math.ceil(q * len(ranked)) - 1] if ranked else None for q in (0.5, 0.99)))


@dataclass(frozen=True)
class DeviceEntry:
    """An adapter on the device, or on its way there (not `ready`)."""

    name: str
    fingerprint: str
    pages: tuple[int, ...]
    pins: int  # requests that hold it
    ready: bool
    kept: bool  # an operator wants it to stay
    outdated: bool  # it leaves with its last request


@dataclass(frozen=True)
class CacheView:
    """One replica's tiers, and what has happened in them since it started."""

    pages: int
    free: int
    device: tuple[DeviceEntry, ...]
    host_bytes: int
    host_budget: int
    host: tuple[str, ...]  # names, the least recently used first
    waiting: int  # requests that wait for adapters
    hits: int
    misses: int
    page_ins: int
    disk_reads: int
    page_in_ms: Quantiles
    copy_ms: Quantiles
    evictions: Mapping[str, int]  # by reason
    policy: str
    plan: tuple[str, ...]  # names, most wanted first
    broken: Mapping[str, str]  # what could not be loaded, by name, and why
    problem: str | None = None  # what is wrong in the books: a defect of ours; all requests may be right all the same
    replica: str = ""


def view_of(
    table: PageTable,
    host: HostTier[Any],
    adapters: Mapping[str, Adapter],
    counts: Counts,
    waiting: int,
    broken: Mapping[str, str],
) -> CacheView:
    """The view of one moment."""

    def name(key: str) -> str:
        return adapters[key].name if key in adapters else key

    entries = [
        DeviceEntry(name(k), k, slot.pages, slot.pins, slot.ready, k in table.kept, k in table.outdated)
        for k, slot in ((key, table[key]) for key in table)
    ]
    return CacheView(
        pages=table.capacity,
        free=table.free,
        device=tuple(entries),
        host_bytes=host.bytes,
        host_budget=host.budget,
        host=tuple(map(name, host)),
        waiting=waiting,
        hits=counts.hits,
        misses=counts.misses,
        page_ins=counts.page_ins,
        disk_reads=counts.disk_reads,
        page_in_ms=Quantiles.of(counts.page_in_ms),
        copy_ms=Quantiles.of(counts.copy_ms),
        evictions=dict[str, int](table.evictions.items()),
        policy=table.policy.name,
        plan=tuple(map(name, table.policy.target)),
        broken={name(key): why for key, why in broken.items()},
    )
