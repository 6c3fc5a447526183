"""A tier of limited room that a residency policy looks after, and what the best possible one would have hit."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from policies.caching import ResidencyPolicy
from policies.caching.plan import Stock
from services.adapters.page_table import PageTable, Reserved

_NEVER: Final = 1 << 60


class Shelf:
    """A replica's pages with the books that the service keeps of them; a page-in is paid for, and takes no time.

    Whatever is needed must come in. After each request the plan's members are fetched ahead, as far as the books allow;
    that is paid for as well.
    """

    def __init__(
        self, policy: ResidencyPolicy, stock: Mapping[str, Stock], ms: Mapping[str, float], room: float
    ) -> None:
        self._table = PageTable(int(room), policy)
        self._stock, self._ms = stock, ms
        self.room = room
        self.waits = dict(ms)
        """Milliseconds until each adapter that is not resident could serve."""
        self.hits = self.misses = 0
        self.paid = 0.0

    @property
    def resident(self) -> tuple[str, ...]:
        """The adapters that serve at once."""
        return self._table.ready

    def plan(self, target: Sequence[str]) -> None:
        """Aim at this set from now on."""
        self._table.plan(target)

    def serve(self, arm: str) -> None:
        """One request for an arm; the base needs nothing."""
        needed = {name: int(self._stock[name].size) for name in {arm} & self._stock.keys()}
        self._table.policy.requested(needed)
        reserved = self._table.reserve(needed)
        assert reserved, f"no room for {arm}"
        self.misses += len(reserved.missing)
        self.hits += len(needed) - len(reserved.missing)
        self._come(reserved)
        self._table.release(needed)
        for adapter in self._table.policy.missing():
            if ahead := self._table.reserve_ahead(adapter, int(self._stock[adapter].size)):
                self._come(ahead)

    def _come(self, reserved: Reserved) -> None:
        self.waits |= {gone: self._ms[gone] for gone in reserved.evicted}
        for adapter in reserved.missing:
            self._table.arrived(adapter, self._ms[adapter])
            del self.waits[adapter]
            self.paid += self._stock[adapter].price


def belady_hits(requests: Sequence[str], stock: Mapping[str, Stock], room: float) -> int:
    """Hits of Belady's MIN on a known sequence: what is needed farthest in the future leaves first.

    With sizes that differ this is the usual heuristic, not the optimum. Requests of the base are neither hit nor miss.
    """
    sequence = [adapter for adapter in requests if adapter in stock]
    following, last = np.full(len(sequence), _NEVER), dict[str, int]()
    for at in range(len(sequence) - 1, -1, -1):
        following[at] = last.get(sequence[at], _NEVER)
        last[sequence[at]] = at
    resident, farthest, free, hits = dict[str, int](), list[tuple[int, str]](), room, 0
    for at, adapter in enumerate(sequence):
        hits += adapter in resident
        if adapter not in resident:
            free -= stock[adapter].size
            while free < 0:
                when, gone = heapq.heappop(farthest)
                if resident.get(gone) == -when:
                    del resident[gone]
                    free += stock[gone].size
        resident[adapter] = int(following[at])
        heapq.heappush(farthest, (-resident[adapter], adapter))
    return hits
