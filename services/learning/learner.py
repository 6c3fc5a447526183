"""Learner: the only writer of the posterior. Folds the event stream and commits what it touched."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from cluster.archive import Archive, Damaged
from cluster.checkpoint import Checkpoint
from cluster.connection import LOST, UNAVAILABLE
from cluster.events import Event
from cluster.forget_store import ForgetRequest
from cluster.learner_store import Changes, LedgerRow
from cluster.store import Store
from cluster.stream import START, following, stream_order
from policies.context import ContextMap
from policies.prior import LearningConfig
from services.adapters.registry import Registry
from services.background import Loops
from services.catalogue import arms
from services.catalogue.adapters import register_found
from services.catalogue.routers import active
from services.learning.deferral import Deferral
from services.learning.folding import Folding, Refold
from services.learning.forgetting import forget
from services.learning.rewards import FeedbackRules
from services.learning.sealing import Sealer, SealingConfig, alone, checkpoint_path
from services.learning.watch import WatchConfig

log = logging.getLogger(__name__)
_IDLE_MS = 500  # how long a step waits for the first event
_RETRY_S = 1.0
_LOOK_AGAIN_S = 5.0  # for sealed decisions that could not be read
_ASK_AGAIN_S = 30.0  # before another try to forget what could not be
_PAGE = 1000
_NONE = -1  # an epoch that nobody has
FORGETTING = "forgetting"


class Learner:
    """Reads events after its position, folds them, commits statistics, ledger and position in one fenced script.

    Beside it a Sealer moves what is no longer hot into the store's archive, if it has one. `clock` (unix s) says when
    windows close and what is hot; the fold reads none.
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
        pace_ms: float = 50,
        sealing: SealingConfig = SealingConfig(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._configured = contexts
        self._folding = Folding(contexts, config, rules, watching)
        self._batch = batch
        self._pace_s = pace_ms / 1000
        self._sealing = sealing
        self._deferral = Deferral(store)
        self._epoch = _NONE
        self._look_again = 0.0
        self._ask_again = 0.0

    async def start(self, registry: Registry) -> None:
        """Take over from any other Learner, resume at the last commit, and register the arms that there are."""
        await self._adopt()
        self._epoch = await self._store.acquire_epoch()
        await self._resume()
        await register_found(self._store, registry)
        for problem in await arms.register(self._store, registry):
            log.warning(problem)

    async def run(self, registry: Registry) -> None:
        """Start and step until cancelled. Redis may go away and come back; a newer Learner ends this one (Fenced)."""
        started = False
        while True:
            try:
                await self._adopt()  # before sealing begins, whose checkpoint is of the same fold
                async with self._sealing_beside():
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
            await self._reach()
            return 0
        ready, ledger, waiting = await self._deferral.sift(entries)
        for at, event in ready:
            self._fold.apply(event, ledger)
            if not self._is_after_goal(at):
                self._fold.drifts.clear()  # they were told when this was folded first
        self._folded += len(entries)
        await self._commit(entries[-1][0], entries[-1][1].time, waiting)
        if waiting:
            await self._deferral.load()
        return len(entries)

    async def _adopt(self) -> None:
        """Fold with the router that is active; with another one than before everything is folded again."""
        contexts = await active(self._store, self._configured)
        if contexts.fingerprint != self._folding.contexts.fingerprint:
            self._folding = replace(self._folding, contexts=contexts)

    async def _follow(self) -> None:
        """Step until another router is active."""
        while await self._store.active_router() in (None, self._folding.contexts.fingerprint):
            await self._tick()
            if await self._store.to_forget() and time.monotonic() > self._ask_again:
                await self._resume()
            folded = await self.step(block_ms=_IDLE_MS)
            await self._release()
            await asyncio.sleep(self._pace_s if folded else 0)

    async def _release(self) -> None:
        """Now and then, see whether what is deferred can be read."""
        if self._deferral.any and time.monotonic() > self._look_again:
            self._look_again = time.monotonic() + _LOOK_AGAIN_S
            await self._deferral.release(self._position)

    async def _resume(self) -> None:
        """Go on from what is committed, or fold everything again if it was folded in another way."""
        await self._deferral.load()
        if requests := await self._store.to_forget():
            await self._forget(requests)
        else:
            await self._go_on()

    async def _forget(self, requests: Mapping[str, ForgetRequest]) -> None:
        """Erase what is asked for, and fold what is left from its beginning: then nothing knows of it any more."""
        self._ask_again = time.monotonic() + _ASK_AGAIN_S
        try:
            async with alone(self._store.archive):
                done = await forget(self._store, requests, self._beat)
        except LOST:
            raise
        except Exception as error:  # whatever it is, learning goes on
            log.exception("forgetting is tried again")
            await self._store.raise_alarm(FORGETTING, f"{len(requests)} requests to forget wait: {error}")
            await self._go_on()
            return
        await self._go_on(afresh=True)
        for id_, one in done.items():
            await self._store.say_forgotten(id_, one)
        await self._store.clear_alarm(FORGETTING)

    async def _go_on(self, *, afresh: bool = False) -> None:
        changes, archive = await self._store.changes(), self._store.archive
        self._version, self._position, self._folded = changes.version, changes.position, changes.folded
        self._goal, self._outdated = changes.rebuilding, list[str]()
        outdated = changes.version > 0 and (afresh or changes.signature != self._folding.signature)
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
        async with alone(self._store.archive):
            if sealed != START:
                await self._store.drop_sealed(sealed)
            self._folded = (await self._store.learner_state()).trimmed
            if self._store.archive and sealed != START:
                await self._from_checkpoint(self._store.archive, sealed)
            else:
                await self._write({}, {}, signature=self._folding.signature)

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

    async def _reach(self) -> None:
        """The log may have lost the event up to which is to be folded again: its end will do."""
        if self._goal and not self._is_after_goal(following(self._position)):
            self._position = self._goal
            await self._write({}, {}, signature=self._folding.signature)

    def _is_after_goal(self, stream_id: str) -> bool:
        return stream_order(stream_id) > stream_order(self._goal or START)

    async def _beat(self, position: str) -> None:
        log.info("reading the log again: at %s", position)
        await self._store.heartbeat(self._clock())

    async def _commit(self, position: str, now: float, deferred: Sequence[str]) -> None:
        fold, self._position = self._fold, position
        self._outdated += sorted(fold.gone)
        signature = self._folding.signature
        await self._write(fold.changed(), fold.rows, now, signature=signature, deferred=deferred, said=fold.drifts)
        for drift in fold.drifts:
            log.warning("%s has changed: %s", drift.arm, drift)
        fold.clear()

    async def _write(
        self,
        arms: Mapping[str, bytes],
        rows: Mapping[str, LedgerRow],
        now: float = 0.0,
        *,
        signature: str,
        deferred: Sequence[str] = (),
        said: Sequence[Event] = (),
    ) -> None:
        reached = signature and self._is_after_goal(following(self._position))
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
            deferred=deferred,
            said=said,
        )
        self._outdated = []

    async def _tick(self) -> None:
        """What the clock brings: a sign of life and time-outs. The fold itself reads no clock."""
        now = self._clock()
        await self._store.heartbeat(now)
        await self._store.post_timeouts(now)

    async def _leads(self) -> bool:
        return self._epoch == (await self._store.learner_state()).epoch

    @contextlib.asynccontextmanager
    async def _sealing_beside(self) -> AsyncIterator[None]:
        if self._store.archive is None:
            yield
            return
        sealer = Sealer(self._store, self._store.archive, self._folding, self._sealing, self._leads, self._clock)
        loops = Loops()
        loops.start(sealer.run())
        try:
            yield
        finally:
            await loops.stop()


def _end(archive: Archive, *, needed: bool) -> str:
    """Where the archive ends. A damaged one stops only whom it is `needed` by; its alarm is the Sealer's."""
    try:
        return archive.last
    except Damaged as error:
        if needed:
            raise
        log.warning("going on from what is committed, without the archive: %s", error)
        return START
