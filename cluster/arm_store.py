"""The arms as the store knows them: one record an arm, and an event for every change."""

from typing import cast

from cluster.connection import Argument, Connection
from cluster.roster import ArmEvent, ArmRecord, Roster, changes


class ArmStore(Connection):
    """Reads and changes the roster. A change and its event are one step."""

    async def roster(self) -> Roster:
        """Every arm that was ever registered, by its name now."""
        return _records(await self._stored_arms())

    async def roster_version(self) -> int:
        """How often the roster has changed."""
        return int(await self._redis.get(self._key("roster")) or 0)

    async def change_arm(self, event: ArmEvent) -> bool:
        """Apply the event and append it to the stream; False if all is so already.

        Raises what `cluster.roster.changes` raises; nothing is written then.
        """
        while True:
            stored = await self._stored_arms()
            changed = changes(_records(stored), event)
            if not changed:
                return False
            args: list[Argument] = [event.type, event.model_dump_json()]
            for name, record in changed.items():
                args += [name, stored.get(name, b""), record.model_dump_json() if record else ""]
            keys = [self._key("events"), self._key("registered"), self._key("roster")]
            if await self._scripts["arm"](keys, args):
                return True

    async def _stored_arms(self) -> dict[str, bytes]:
        stored = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("registered")))
        return {name.decode(): record for name, record in stored.items()}


def _records(stored: dict[str, bytes]) -> dict[str, ArmRecord]:
    return {name: ArmRecord.model_validate_json(record) for name, record in stored.items()}
