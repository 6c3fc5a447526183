"""The event log from its first event that is kept to its last: sealed segments, then what is hot in Redis."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, cast

from cluster.archive import Archive, Segment
from cluster.connection import Connection, Entry, entry
from cluster.events import decode
from cluster.stream import START, Raw, following, stream_order


class Behind(NamedTuple):
    """How much is not folded yet: how many events, and the age of the oldest of them in seconds."""

    events: int
    age_s: float


class LogStore(Connection):
    """The store as readers of the log, and the one who seals it, see it."""

    async def events(self, after: str, count: int, block_ms: int | None = None) -> list[Entry]:
        """Up to `count` hot events after the stream id `after`; without any, waits up to `block_ms` (at most 2,000)."""
        return [entry(*found) for found in await self._read("events", after, count, block_ms)]

    async def event_range(self, start: str = "-", end: str = "+", count: int | None = None) -> list[Entry]:
        """Up to `count` hot events from stream id `start` to `end`, both included, oldest first."""
        found = await self._redis.xrange(self._key("events"), start, end, count=count)
        return [entry(*reply) for reply in cast(list[Any], found)]

    async def history(
        self, after: str = START, until: str | None = None, count: int = 1000
    ) -> AsyncIterator[list[Entry]]:
        """Every event after `after`, up to `until` (both stream ids), sealed or hot, in batches of their order.

        Raises Damaged if sealed events are not in the archive.
        """
        last = stream_order(until) if until else None
        while last is None or stream_order(after) < last:
            segment = await self._segment_after(after)
            batch = await self._unsealed(segment, after) if segment else await self.events(after, count)
            if segment is None and await self._segment_after(after):
                continue  # what was hot has been sealed in between, and may have left Redis
            if segment is None:
                await self._check_end([following(after)])
            kept = [one for one in batch if last is None or stream_order(one[0]) <= last]
            if kept:
                yield kept
            if len(kept) < len(batch) or not batch:
                return
            after = batch[-1][0]

    async def raw_events(self, after: str, count: int) -> list[Raw]:
        """Up to `count` hot events after the stream id `after`, as they are stored."""
        found = await self._read("events", after, count, None)
        return [(stream_id.decode(), fields) for stream_id, fields in found]

    async def drop_sealed(self, until: str) -> int:
        """Drop hot events up to the stream id `until`, which must be in the archive; how many."""
        keys = [self._key("events"), self._key("learner")]
        return int(await self._scripts["trim"](keys, [following(until), until]))

    async def behind(self, position: str, folded: int) -> Behind:
        """What a reader has yet to take over that has folded `folded` of all events ever appended, up to `position`."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xlen(self._key("events"))
        pipeline.hget(self._key("learner"), "trimmed")
        pipeline.xrange(self._key("events"), f"({position}", count=1)
        pipeline.time()
        length, trimmed, next_, (seconds, micros) = await pipeline.execute()
        if not next_:
            return Behind(0, 0.0)
        since = stream_order(next_[0][0].decode())[0] / 1000
        return Behind(max(0, length + int(trimmed or 0) - folded), max(0.0, seconds + micros / 1e6 - since))

    async def raise_alarm(self, name: str, message: str) -> None:
        """Say that something is wrong which stops nobody; it stands until it is cleared."""
        await self._redis.hset(self._key("alarms"), name, message)

    async def clear_alarm(self, name: str) -> None:
        """It is well again."""
        await self._redis.hdel(self._key("alarms"), name)

    async def alarms(self) -> dict[str, str]:
        """What is wrong, by name."""
        found = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("alarms")))
        return {name.decode(): message.decode() for name, message in found.items()}

    async def _segment_after(self, position: str) -> Segment | None:
        return await asyncio.to_thread(self.archive.after, position) if self.archive else None

    async def _unsealed(self, segment: Segment, after: str) -> list[Entry]:
        return await asyncio.to_thread(_read, self.archive, segment, after) if self.archive else []


def _read(archive: Archive, segment: Segment, after: str) -> list[Entry]:
    order = stream_order(after)
    raw = [one for one in archive.read(segment) if stream_order(one[0]) > order]
    return [(stream_id, decode(fields)) for stream_id, fields in raw]
