"""Who serves: the mode that an operator has set, and the guard's reset, as events and at once."""

from typing import Any, cast

from cluster.connection import Connection
from cluster.events import GuardReset, Mode, ModeChanged, encode


class ModeStore(Connection):
    """The store as operators and those who follow their decisions see it."""

    async def set_mode(self, changed: ModeChanged) -> None:
        """Append the change and keep it for every Router, both or neither. Sent twice it says the same."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.set(self._key("mode"), changed.mode)
        pipeline.xadd(self._key("events"), cast(Any, encode(changed)))
        await pipeline.execute()

    async def mode(self) -> Mode | None:
        """The mode that was set last; None while no one has set any."""
        stored = cast(bytes | None, await self._redis.get(self._key("mode")))
        return cast(Mode, stored.decode()) if stored else None

    async def reset_guard(self, reset: GuardReset) -> None:
        """Append the reset; it holds once the Learner has folded it."""
        await self._redis.xadd(self._key("events"), cast(Any, encode(reset)))
