"""Which adapters should be resident for the requests to come, as the Learner has planned it."""

from typing import Final, cast

from cluster.connection import Connection
from cluster.events import Record

_PATIENCE: Final = 5  # times that a replica may miss
_LEAST_PATIENCE_S: Final = 10.0


class CachePlan(Record):
    """The plan of an epoch: adapters by name, most wanted first, for the room of all replicas together.

    `number` counts the plans of the Learner that made it, `requests` the latest ones that it was made for, `pages` the
    room, `time` is when it was made, in unix seconds. `sizes` are the members' pages by content hash, in their order.
    """

    number: int
    time: float
    requests: int
    pages: int
    target: list[str]
    sizes: dict[str, int]


class ReplicaRoom(Record):
    """What a Model replica has for adapters: pages, and what a page-in takes there, 0 ms if it has had none."""

    replica: str
    time: float
    pages: int
    page_in_ms: float


class PlanStore(Connection):
    """The store as the one who plans and those who follow the plan see it. A plan is no event: beliefs imply it."""

    async def put_plan(self, plan: CachePlan) -> None:
        """Replace the plan."""
        await self._redis.set(self._key("plan"), plan.model_dump_json())

    async def plan(self) -> CachePlan | None:
        """The latest plan; None before the first."""
        stored = cast(bytes | None, await self._redis.get(self._key("plan")))
        return CachePlan.model_validate_json(stored) if stored else None

    async def tell_room(self, room: ReplicaRoom) -> None:
        """A replica says that it is there."""
        await self._redis.hset(self._key("rooms"), room.replica, room.model_dump_json())

    async def rooms(self, now: float, every_s: float) -> list[ReplicaRoom]:
        """The replicas that say so every `every_s`, by name; those that were silent for long are forgotten."""
        since = now - max(_PATIENCE * every_s, _LEAST_PATIENCE_S)
        stored = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("rooms")))
        rooms = [ReplicaRoom.model_validate_json(value) for _, value in sorted(stored.items())]
        if silent := [room.replica for room in rooms if room.time <= since]:
            await self._redis.hdel(self._key("rooms"), *silent)
        return [room for room in rooms if room.time > since]
