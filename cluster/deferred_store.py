"""Events that wait beside the log because what they are about cannot be read now."""

from collections.abc import Sequence
from typing import Any, cast

from cluster.connection import Connection, Entry, entry


class DeferredStore(Connection):
    """The store as the Learner and those who look after it see it. Events come here by a commit."""

    async def deferred(self) -> list[Entry]:
        """All of them, oldest first, with the stream ids that they had in the log."""
        return [entry(*reply) for reply in cast(list[Any], await self._redis.xrange(self._key("deferred")))]

    async def deferred_count(self) -> int:
        """How many wait."""
        return int(await self._redis.xlen(self._key("deferred")))

    async def release(self, position: str, stream_ids: Sequence[str]) -> int:
        """Append these again, oldest first; how many. None if something in the log after `position` is not folded."""
        keys = [self._key("events"), self._key("deferred")]
        return int(await self._scripts["release"](keys, [position, *stream_ids]))
