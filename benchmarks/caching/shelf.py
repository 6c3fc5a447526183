"""A tier of limited room that a residency policy looks after, and what the best possible one would have hit."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from policies.caching import ResidencyPolicy
from policies.caching.plan import Stock

_NEVER: Final = 1 << 60


class Shelf:
    """Residents within `room`. Whatever is needed must come in; every page-in is paid for, also those ahead of need."""

    def __init__(
        self, policy: ResidencyPolicy, stock: Mapping[str, Stock], ms: Mapping[str, float], room: float
    ) -> None:
        self.policy = policy
        self._stock, self._ms = stock, ms
        self.room = self._free = room
        self.resident: set[str] = set()
        self.waits = dict(ms)
        """Milliseconds until each adapter that is not resident could serve."""
        self.hits = self.misses = 0
        self.paid = 0.0

    def serve(self, arm: str) -> None:
        """One request for an arm; the base needs nothing."""
        needed = {arm} & self._stock.keys()
        self.policy.requested(needed)
        for adapter in needed:
            if adapter in self.resident:
                self.hits += 1
            else:
                self.misses += 1
                self._bring(adapter)

    def _bring(self, adapter: str) -> None:
        size = self._stock[adapter].size
        while self._free < size:
            gone = self.policy.victim(self.resident)
            self.resident.remove(gone)
            self.policy.evicted(gone)
            self.waits[gone] = self._ms[gone]
            self._free += self._stock[gone].size
        self._free -= size
        self.resident.add(adapter)
        del self.waits[adapter]
        self.policy.paged_in(adapter, size, self._ms[adapter])
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
