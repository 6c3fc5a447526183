"""A Model replica fetches and keeps its part of the plan."""

import asyncio
import logging
import time
from typing import Any

from cluster.connection import UNAVAILABLE
from cluster.plan_store import ReplicaRoom
from cluster.store import Store
from policies.caching.spread import spread
from services.adapters.cache import AdapterCache

log = logging.getLogger(__name__)


class PlanFollower:
    """Says that a replica is there, and tells its cache which adapters of the latest plan are its to keep."""

    def __init__(self, store: Store, cache: AdapterCache[Any], replica: str, every_s: float) -> None:
        self._store = store
        self._cache = cache
        self._replica = replica
        self._every_s = every_s

    async def step(self) -> None:
        """Say so and take over the plan."""
        now, cache = time.time(), self._cache
        room = ReplicaRoom(replica=self._replica, time=now, pages=cache.pages, page_in_ms=cache.page_in_ms)
        await self._store.tell_room(room)
        plan = await self._store.plan()
        if plan is not None:
            rooms = {each.replica: each.pages for each in await self._store.rooms(now, self._every_s)}
            rooms[self._replica] = cache.pages  # also if a replica whose clock is ahead has taken it for silent
            cache.plan(spread(plan.sizes, rooms)[self._replica])

    async def run(self) -> None:
        """Follow until cancelled; the store may be away at first, go away and come back."""
        try:
            while True:
                try:
                    await self.step()
                except UNAVAILABLE as error:
                    log.warning("the store is away (%s): the plan stays as it is", error)
                await asyncio.sleep(self._every_s)
        finally:
            await self._store.close()
