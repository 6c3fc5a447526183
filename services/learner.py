"""Learner: the only writer of the posterior. Folds the event stream and commits what it touched."""

import asyncio
import logging
import time

from cluster.connection import START, UNAVAILABLE
from cluster.events import ArmRegistered, ArmRemoved
from cluster.store import Store
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig
from services.adapters.registry import Registry
from services.fold import Fold

log = logging.getLogger(__name__)
_IDLE_MS = 500  # how long a step waits for the first event
_RETRY_S = 1.0
_TRIM_EVERY_S = 60.0


class Learner:
    """Reads events after its position, folds them, commits statistics, ledger and position in one fenced script."""

    def __init__(
        self, store: Store, contexts: ContextMap, config: LearningConfig, *, batch: int = 1000, pace_ms: float = 20
    ) -> None:
        self._store = store
        self._contexts = contexts
        self._config = config
        self._batch = batch
        self._pace_s = pace_ms / 1000
        self._trimmed = 0.0

    async def start(self, registry: Registry) -> None:
        """Take over from any other Learner, resume at the last commit, and register the arms that there are."""
        self._epoch = await self._store.acquire_epoch()
        await self._resume()
        await self._register(registry)

    async def run(self, registry: Registry) -> None:
        """Start and step until cancelled. Redis may go away and come back; a newer Learner ends this one (Fenced)."""
        await self.start(registry)
        while True:
            try:
                await self._resume()  # what was folded but perhaps not committed is dropped
                await self._follow()
            except UNAVAILABLE as error:
                log.warning("the store is away (%s), trying again in %g s", error, _RETRY_S)
                await asyncio.sleep(_RETRY_S)

    async def step(self, block_ms: int | None = None) -> int:
        """Fold and commit the next events; how many there were."""
        entries = await self._store.events(self._position, self._batch, block_ms)
        if not entries:
            return 0
        events = [event for _, event in entries]
        ledger = await self._store.ledger(sorted(Fold.references(events)))
        for event in events:
            self._fold.apply(event, ledger)
        await self._commit(entries[-1][0], events[-1].time)
        return len(events)

    async def _follow(self) -> None:
        while True:
            await self._tick()
            await asyncio.sleep(self._pace_s if await self.step(block_ms=_IDLE_MS) else 0)

    async def _resume(self) -> None:
        state = await self._store.learner_state()
        self._version, self._position = state.version, state.position
        blobs = {arm: blob for arm, (_, blob) in (await self._store.arms()).items()}
        self._outdated: list[str] = []
        if blobs and state.router != self._contexts.fingerprint:
            log.warning("the router changed from %s: folding the events again", state.router)
            self._position, self._outdated, blobs = START, sorted(blobs), {}
        arms = {arm: ArmStatistics.from_bytes(blob) for arm, blob in blobs.items()}
        self._fold = Fold(self._contexts, self._config, arms)

    async def _commit(self, position: str, now: float) -> None:
        fold = self._fold
        arms = {arm: fold.arms[arm].to_bytes() for arm in sorted(fold.touched)}
        self._version = await self._store.commit(
            self._epoch,
            self._version,
            position,
            now,
            arms,
            self._outdated,
            fold.rows,
            router=self._contexts.fingerprint,
        )
        self._position, self._outdated = position, []
        for arm, alarm in fold.alarms:
            log.warning("%s no longer earns what was believed: %s", arm, alarm)
        fold.clear()

    async def _register(self, registry: Registry) -> None:
        now = time.time()
        for arm in registry.arms:
            fingerprint = registry[arm].fingerprint if arm in registry else None
            await self._store.register_arm(ArmRegistered(time=now, arm=arm, adapter_hash=fingerprint))
        for arm in self._fold.arms.keys() - set(registry.arms):
            await self._store.remove_arm(ArmRemoved(time=now, arm=arm))

    async def _tick(self) -> None:
        """What the clock brings: a sign of life, time-outs, retention. The fold itself reads no clock."""
        now = time.time()
        await self._store.heartbeat(now)
        await self._store.post_timeouts(now)
        if now - self._trimmed > _TRIM_EVERY_S:
            self._trimmed = now
            await self._store.trim(now)
