"""Trained routers that were pushed to a live service, which of them is active, and which were before."""

from collections.abc import Callable
from itertools import groupby
from typing import Any, cast

from redis.exceptions import WatchError

from cluster.connection import Connection
from cluster.events import Record, RouterActivated, encode


class RouterRecord(Record):
    """A pushed router: who pushed it and when, and what it says of itself."""

    router: str
    time: float
    by: str
    arms: list[str]
    metrics: dict[str, float]
    size: int


class NoEarlierRouter(RuntimeError):
    """There is nothing to roll back to."""


class UnknownRouter(RuntimeError):
    """It was not pushed, or is removed."""


class RouterInUse(RuntimeError):
    """It decides, or a rollback would return to it."""


class RouterStore(Connection):
    """The store as operators who change routers see it. Routers are known by their fingerprints."""

    async def put_router(self, record: RouterRecord, document: bytes, tensors: bytes) -> None:
        """Keep a router's two files; one that is there already stays as it is."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(self._key("router", record.router), mapping={"document": document, "tensors": tensors})
        pipeline.hsetnx(self._key("routers"), record.router, record.model_dump_json())
        await pipeline.execute()

    async def routers(self) -> list[RouterRecord]:
        """Every router, oldest first."""
        found = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("routers")))
        records = [RouterRecord.model_validate_json(value) for value in found.values()]
        return sorted(records, key=lambda record: (record.time, record.router))

    async def router_files(self, router: str) -> tuple[bytes, bytes] | None:
        """The document and the tensors that `put_router` kept."""
        found = cast(list[bytes | None], await self._redis.hmget(self._key("router", router), ["document", "tensors"]))
        return (found[0], found[1]) if found[0] and found[1] else None

    async def active_router(self) -> str | None:
        """The router that an operator activated last; None while the service is on that of its settings."""
        found = cast(bytes | None, await self._redis.lindex(self._key("router_history"), -1))
        return found.decode() if found else None

    async def router_history(self) -> list[str]:
        """What a rollback would go back to, last first; empty while none was activated."""
        found = cast(list[bytes], await self._redis.lrange(self._key("router_history"), 0, -1))
        return [router.decode() for router in reversed(found[:-1])]

    async def activate_router(self, event: RouterActivated, *, before: str) -> bool:
        """Make a router the active one and append the event; False if it is active already, by which nothing changes.

        `before` serves while none was activated: the first activation can be rolled back to it.
        """

        def after(history: list[bytes]) -> list[bytes]:
            known = history or [before.encode()]
            return history if known[-1] == event.router.encode() else [*known, event.router.encode()]

        return await self._change(event, after)

    async def roll_back_router(self, event: RouterActivated, *, active: str) -> bool:
        """Return from the `active` router to the one before it, the event's; False if that is done already.

        Raises NoEarlierRouter, also when the event's is not the one before.
        """

        def after(history: list[bytes]) -> list[bytes]:
            if history[-1:] == [event.router.encode()]:
                return history
            if history[-2:] != [event.router.encode(), active.encode()]:
                raise NoEarlierRouter(f"{event.router} was not active before {active}")
            return history[:-1]

        return await self._change(event, after)

    async def remove_router(self, router: str) -> bool:
        """Forget a router, also as one that was active long ago; False if it is not there. Raises RouterInUse."""
        key = self._key("router_history")
        while True:
            async with self._redis.pipeline(transaction=True) as pipeline:
                await pipeline.watch(key, self._key("routers"))
                history = cast(list[bytes], await pipeline.lrange(key, 0, -1))
                if router.encode() in history[-2:]:
                    said = "is active" if router.encode() == history[-1] else "is what a rollback returns to"
                    raise RouterInUse(f"{router} {said}")
                if not await cast(Any, pipeline.hexists(self._key("routers"), router)):
                    return False
                cast(Any, pipeline).multi()
                pipeline.hdel(self._key("routers"), router)
                pipeline.delete(self._key("router", router), key)
                if left := [one for one, _ in groupby(name for name in history if name != router.encode())]:
                    pipeline.rpush(key, *left)
                try:
                    await pipeline.execute()
                    return True
                except WatchError:
                    continue  # another operator was faster

    async def _change(self, event: RouterActivated, after: Callable[[list[bytes]], list[bytes]]) -> bool:
        """Change the history and append the event, both or neither, unless nothing changes. Raises UnknownRouter."""
        key = self._key("router_history")
        while True:
            async with self._redis.pipeline(transaction=True) as pipeline:
                await pipeline.watch(key, self._key("routers"))
                if not await cast(Any, pipeline.hexists(self._key("routers"), event.router)):
                    raise UnknownRouter(f"{event.router} is not there")
                before = cast(list[bytes], await pipeline.lrange(key, 0, -1))
                history = after(before)
                if history == before:
                    return False
                cast(Any, pipeline).multi()
                pipeline.delete(key)
                pipeline.rpush(key, *history)
                pipeline.xadd(self._key("events"), cast(Any, encode(event)))
                try:
                    await pipeline.execute()
                    return True
                except WatchError:
                    continue  # another operator was faster
