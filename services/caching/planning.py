"""Plans which adapters should be resident, epoch by epoch, from recent requests and what is believed."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from cluster.connection import UNAVAILABLE
from cluster.events import Decision
from cluster.plan_store import CachePlan, ReplicaRoom
from cluster.store import Store
from cluster.stream import START, stream_order
from policies.caching.epochs import Planner
from policies.caching.plan import Stock
from policies.context import ContextMap
from services.adapters.tiers import pages_of
from services.catalogue.arms import Arms
from services.catalogue.routers import active
from services.routing.decider import Decider
from services.routing.switching import Routers

log = logging.getLogger(__name__)
_RETRY_S = 1.0
_BATCH: Final = 1000
_PER_RUN: Final = 8  # decisions that are read again at the start for each run of the window
_BLOCK_MS: Final = 1000


class Prices(NamedTuple):
    """Reward of a millisecond, and the milliseconds of a page-in where none has been measured."""

    cost_per_ms: float
    page_in_ms: float


class PlanMaker:
    """Reads the log's decisions as they come; at the end of an epoch it plans for the latest of them.

    Beliefs are those of the Learner's last commit. An arm whose gates depend on the request takes no part. Plans are
    at least `pace_s` apart, however short the epochs are. What was planned last counts as resident.
    """

    def __init__(
        self,
        store: Store,
        arms: Arms,
        routers: Routers,
        new_planner: Callable[[], Planner],
        prices: Prices,
        *,
        pace_s: float,
    ) -> None:
        self._store = store
        self._arms = arms
        self._routers = routers
        self._new_planner = new_planner
        self._prices = prices
        self._pace_s = pace_s
        self._position = START
        self._made = 0
        self._target: list[str] = []

    async def run(self) -> None:
        """Plan until cancelled. Redis may be away at first, go away and come back."""
        try:
            started = False
            while True:
                try:
                    if not started:
                        await self.start()
                        started = True
                    await asyncio.sleep(self._pace_s if await self.step(_BLOCK_MS) else 0)
                except UNAVAILABLE as error:
                    log.warning("the store is away (%s), trying again in %g s", error, _RETRY_S)
                    await asyncio.sleep(_RETRY_S)
        finally:
            await self._store.close()

    async def start(self) -> None:
        """Begin with the latest decisions that there are."""
        await self._adopt(await active(self._store, self._routers.configured))

    async def step(self, block_ms: int | None = None) -> CachePlan | None:
        """Take in the next events; the plan, if one was due and some replica has room."""
        entries = await self._store.events(self._position, _BATCH, block_ms)
        for at, event in entries:
            self._position = at
            if isinstance(event, Decision):
                self._see(event)
        rooms = await self._store.rooms(time.time(), self._pace_s) if self._planner.due else ()
        if not rooms:
            return None
        contexts = await active(self._store, self._routers.configured)
        if contexts.fingerprint != self._decider.contexts.fingerprint:
            await self._adopt(contexts)
        await self._decider.snapshots.refresh()
        plan = self._plan(rooms)
        await self._store.put_plan(plan)
        return plan

    async def _adopt(self, contexts: ContextMap) -> None:
        self._decider: Decider = await asyncio.to_thread(self._routers.make, contexts)
        await self._decider.snapshots.start(contexts.fingerprint)
        self._planner = self._new_planner()
        latest = await self._store.decisions(_PER_RUN * self._planner.config.window)
        self._position = max([self._position, *(stored.stream_id for stored in latest[:1])], key=stream_order)
        for stored in reversed(latest):
            self._see(stored.decision)

    def _see(self, decision: Decision) -> None:
        contexts = self._decider.contexts
        self._prices = self._prices._replace(cost_per_ms=decision.tuning.get("cost_per_ms", self._prices.cost_per_ms))
        if decision.router == contexts.fingerprint and decision.eligible:
            x = contexts.map(np.frombuffer(decision.features, np.float16)).x
            eligible = [self._arms.current(arm) for arm in decision.eligible]
            arm = self._arms.current(decision.arm)
            self._planner.saw(x, eligible, arm if self._adapters(arm) else None)

    def _adapters(self, arm: str) -> list[str]:
        """What an arm turns on whatever the request; nothing for a mixture, whose gates depend on it."""
        arms = self._arms
        return list(arms.gates(arm)) if arm in arms.names and not arms.size(arm) else []

    def _plan(self, rooms: Sequence[ReplicaRoom]) -> CachePlan:
        arms, pages = self._arms, sum(room.pages for room in rooms)
        needs = {arm: self._adapters(arm) for arm in arms.names if not arms.size(arm)}
        measured = [room.page_in_ms for room in rooms if room.page_in_ms]
        price = self._prices.cost_per_ms * (median(measured) if measured else self._prices.page_in_ms)
        stock = {each.name: Stock(pages_of(each.rank), price) for each in arms.registry}
        requests = self._planner.requests
        posterior = self._decider.snapshots.posterior
        self._target = list(self._planner.plan(posterior, needs, stock, pages, self._target))
        self._made += 1
        return CachePlan(
            number=self._made,
            time=time.time(),
            requests=requests,
            pages=pages,
            target=self._target,
            sizes={arms.registry[name].fingerprint: int(stock[name].size) for name in self._target},
        )
