"""Learner: the only writer of the posterior. Folds the event stream and commits what it touched."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping

from cluster.archive import Archive, Damaged
from cluster.checkpoint import Checkpoint
from cluster.connection import UNAVAILABLE
from cluster.learner_store import Changes, LedgerRow
from cluster.store import Store
from cluster.stream import START, stream_order
from policies.context import ContextMap
from policies.prior import LearningConfig
from services import arms
from services.adapters.registry import Registry
from services.learning.fold import Fold
from services.learning.folding import Folding, Refold
from services.learning.rewards import FeedbackRules
from services.learning.sealing import Sealer, SealingConfig, checkpoint_path
from services.learning.watch import WatchConfig

log = logging.getLogger(__name__)
_IDLE_MS = 500  # how long a step waits for the first event
_RETRY_S = 1.0
_PAGE = 1000


class Learner:
    """Reads events after its position, folds them, commits statistics, ledger and position in one fenced script.

    Beside it a Sealer moves what is no longer hot into the store's archive, if it has one.
    """

    def __init__(
        self,
        store: Store,
        contexts: ContextMap,
        config: LearningConfig,
        rules: FeedbackRules = FeedbackRules(),
        *,
        watching: WatchConfig = WatchConfig(),
        batch: int = 1000,
        pace_ms: float = 20,
        sealing: SealingConfig = SealingConfig(),
    ) -> None:
        self._store = store
        self._folding = Folding(contexts, config, rules, watching)
        self._batch = batch
        self._pace_s = pace_ms / 1000
        self._sealing = sealing

    async def start(self, registry: Registry) -> None:
        """Take over from any other Learner, resume at the last commit, and register the arms that there are."""
        self._epoch = await self._store.acquire_epoch()
        await self._resume()
        for problem in await arms.register(self._store, registry):
            log.warning(problem)

    async def run(self, registry: Registry) -> None:
        """Start and step until cancelled. Redis may go away and come back; a newer Learner ends this one (Fenced)."""
        started = False
        async with self._sealing_beside():
            while True:
                try:
                    # What was folded but perhaps not committed is dropped.
                    await (self._resume() if started else self.start(registry))
                    started = True
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
        self._folded += len(events)
        await self._commit(entries[-1][0], events[-1].time)
        return len(events)

    async def _follow(self) -> None:
        while True:
            await self._tick()
            await asyncio.sleep(self._pace_s if await self.step(block_ms=_IDLE_MS) else 0)

    async def _resume(self) -> None:
        """Go on from what is committed, or fold everything again if it was folded in another way."""
        changes, archive = await self._store.changes(), self._store.archive
        self._version, self._position, self._folded = changes.version, changes.position, changes.folded
        self._goal, self._outdated = changes.rebuilding, list[str]()
        outdated = changes.version > 0 and changes.signature != self._folding.signature
        needed = outdated or not changes.version
        sealed = await asyncio.to_thread(_end, archive, needed=needed) if archive else START
        lost = stream_order(changes.position) < stream_order(sealed)
        if lost or outdated:
            log.warning("the fold is %s, expected %s: folding again", changes.signature, self._folding.signature)
            await self._rebuild(changes, sealed)
        else:
            self._fold = self._folding.start(changes.blobs)

    async def _rebuild(self, changes: Changes, sealed: str) -> None:
        """Begin again with what the sealed events come to; the hot ones follow step by step.

        Routers keep what they have until everything is folded that was folded before.
        """
        self._goal = max(changes.rebuilding or changes.position, sealed, key=stream_order)
        self._position = sealed
        self._outdated = sorted(changes.names)
        self._fold = self._folding.start({})
        if self._store.archive and sealed != START:
            await self._store.drop_sealed(sealed)
            await self._from_checkpoint(self._store.archive, sealed)
        self._folded = (await self._store.learner_state()).trimmed

    async def _from_checkpoint(self, archive: Archive, sealed: str) -> None:
        """Until all rows are written there is no signature: whoever is interrupted here begins again."""
        path, signature = checkpoint_path(archive, self._folding), self._folding.signature
        with Checkpoint(path, signature) as checkpoint:
            await Refold(self._store, self._folding, checkpoint).advance(sealed, self._beat)
            arms, after = checkpoint.arms(), ""
            while page := checkpoint.page(after, _PAGE):
                await self._write({}, {id_: placed.row for id_, placed in page.items()}, signature="")
                after = max(page)
            await self._write(arms, {}, signature=signature)
            self._fold = self._folding.start(arms)

    async def _beat(self, position: str) -> None:
        log.info("folding again: at %s of %s", position, self._goal)
        await self._store.heartbeat(time.time())

    async def _commit(self, position: str, now: float) -> None:
        fold, self._position = self._fold, position
        self._outdated += sorted(fold.removed)
        await self._write(fold.changed(), fold.rows, now, signature=self._folding.signature)
        for arm, alarm in fold.alarms:
            log.warning("%s no longer earns what was believed: %s", arm, alarm)
        fold.clear()

    async def _write(
        self, arms: Mapping[str, bytes], rows: Mapping[str, LedgerRow], now: float = 0.0, *, signature: str
    ) -> None:
        reached = signature and stream_order(self._position) >= stream_order(self._goal or START)
        self._version = await self._store.commit(
            self._epoch,
            self._version,
            self._position,
            now,
            arms,
            self._outdated,
            rows,
            router=self._folding.contexts.fingerprint,
            signature=signature,
            rebuilding="" if reached else self._goal,
            folded=self._folded,
        )
        self._outdated = []

    async def _tick(self) -> None:
        """What the clock brings: a sign of life and time-outs. The fold itself reads no clock."""
        now = time.time()
        await self._store.heartbeat(now)
        await self._store.post_timeouts(now)

    @contextlib.asynccontextmanager
    async def _sealing_beside(self) -> AsyncIterator[None]:
        if self._store.archive is None:
            yield
            return
        sealer = Sealer(self._store, self._store.archive, self._folding, self._sealing)
        running = asyncio.create_task(sealer.run())
        try:
            yield
        finally:
            while not running.done():
                running.cancel()  # more than once: on Python 3.11 the Redis client can swallow one
                await asyncio.wait([running], timeout=0.1)


def _end(archive: Archive, *, needed: bool) -> str:
    """Where the archive ends. A damaged one stops only whom it is `needed` by; its alarm is the Sealer's."""
    try:
        return archive.last
    except Damaged as error:
        if needed:
            raise
        log.warning("going on from what is committed, without the archive: %s", error)
        return START
