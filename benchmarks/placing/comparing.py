"""The same blocks of requests at both services, one after the other: what was resident, and what it took."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import httpx
import numpy as np

from benchmarks.placing.load import Asked, play, trace
from benchmarks.placing.world import Services
from benchmarks.story import Difference, interval

_CLIENTS: Final = 4
_TIMEOUT_S: Final = 60.0


class Block(NamedTuple):
    """Adapters that requests needed and that were, or were not, there; page-ins; milliseconds to the first tokens."""

    hits: int
    misses: int
    page_ins: int
    first_ms: list[float]
    failed: int

    @property
    def hit_rate(self) -> float:
        """Of the requests."""
        return self.hits / (self.hits + self.misses)


class Pair(NamedTuple):
    """The same requests, at both."""

    placed: Block
    anywhere: Block


class Comparison(NamedTuple):
    """What all blocks come to."""

    pairs: list[Pair]

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(pair.placed.failed + pair.anywhere.failed for pair in self.pairs)

    @property
    def raw(self) -> list[dict[str, Any]]:
        """For a file."""
        return [{name: block._asdict() for name, block in pair._asdict().items()} for pair in self.pairs]

    @property
    def gain(self) -> Difference:
        """Hit rate with the placement less that without, over blocks."""
        return interval(np.array([pair.placed.hit_rate - pair.anywhere.hit_rate for pair in self.pairs]))


async def compare(urls: Services, adapters: Sequence[str], blocks: int, length: int) -> Comparison:
    """Send `blocks` of `length` requests, after one that is not counted."""
    pairs = []
    async with (
        httpx.AsyncClient(base_url=urls.placed, timeout=_TIMEOUT_S) as placed,
        httpx.AsyncClient(base_url=urls.anywhere, timeout=_TIMEOUT_S) as anywhere,
    ):
        for number in range(blocks + 1):
            wanted, found = trace(adapters, length, number), {}
            for http in (placed, anywhere) if number % 2 else (anywhere, placed):
                found[http] = await _block(http, wanted, number)
            pairs.append(Pair(found[placed], found[anywhere]))
    return Comparison(pairs[1:])


async def _block(http: httpx.AsyncClient, wanted: Sequence[str], seed: int) -> Block:
    before = await caches(http)
    asked: Asked = await play(http, wanted, _CLIENTS, seed)
    after = await caches(http)
    counts = {
        name: sum(v[name] for v in after) - sum(v[name] for v in before) for name in ("hits", "misses", "page_ins")
    }
    return Block(**counts, first_ms=asked.first_ms, failed=len(asked.failures))


async def caches(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """What `GET /v1/cache` shows."""
    response = await http.get("v1/cache")
    response.raise_for_status()
    found: list[dict[str, Any]] = response.json()
    return found
