"""Sealing: what is folded and no longer hot moves from Redis into the archive, and the checkpoint follows it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.archive import Archive, Damaged
from cluster.checkpoint import Checkpoint
from cluster.connection import LOST, UNAVAILABLE
from cluster.store import Store
from cluster.stream import Raw, stream_order
from services.learning.folding import Folding, Refold

log = logging.getLogger(__name__)
ALARM = "sealing"
_PAGE = 1000
_LOCKED_S = 0.1


@dataclass(frozen=True)
class SealingConfig:
    """hot_s: seconds that events stay in Redis.  segment: events of a segment.  keep_s: seconds that sealed events are
    kept, 0 for good.  every_s: pause between looks."""

    hot_s: float = 86_400.0
    segment: int = 5000
    keep_s: float = 0.0
    every_s: float = 5.0


@contextlib.asynccontextmanager
async def alone(archive: Archive | None) -> AsyncIterator[None]:
    """Until the block ends nobody else writes the archive; waits for whoever does."""
    while archive:
        with archive.lock() as free:
            if free:
                yield
                return
        await asyncio.sleep(_LOCKED_S)
    yield


async def _always() -> bool:
    return True


class Sealer:
    """Runs beside the Learner and never stops it: what fails raises an alarm and is tried again.

    There may be several for a while, as an earlier Learner may not know yet that it is one: only that of the Learner
    which `leads` does anything, and one at a time, under the archive's lock.
    """

    def __init__(
        self,
        store: Store,
        archive: Archive,
        folding: Folding,
        config: SealingConfig,
        leads: Callable[[], Awaitable[bool]] = _always,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._archive = archive
        self._folding = folding
        self._config = config
        self._leads = leads
        self._clock = clock
        self._alarmed = True  # an alarm may stand from before

    async def run(self) -> None:
        """Seal until cancelled."""
        while True:
            try:
                await self.step(self._clock())
            except UNAVAILABLE as error:
                log.warning("sealing waits for the store: %s", error)
            except Exception:  # whatever it is, events wait in Redis and learning goes on
                log.exception("sealing is tried again")
            await asyncio.sleep(self._config.every_s)

    async def step(self, now: float) -> int:
        """Seal every segment that is due at `now` (unix s), bring the checkpoint up to it, and delete what is too old.

        The number of segments sealed. Whatever fails becomes an alarm; only a store that is away raises.
        """
        try:
            with self._archive.lock() as free:
                if not free or not await self._leads():
                    return 0
                sealed = await self._work(now)
        except LOST:
            raise
        except Exception as error:
            log.exception("sealing failed")
            await self._store.raise_alarm(ALARM, f"sealing into {self._archive.directory} failed: {error}")
            self._alarmed = True
            return 0
        if self._alarmed:
            await self._store.clear_alarm(ALARM)
            self._alarmed = False
        return sealed

    async def _work(self, now: float) -> int:
        await asyncio.to_thread(self._sweep)
        sealed = 0
        while await self._seal(now):
            sealed += 1
        await self._follow()
        await self._drop(now)
        return sealed

    async def _seal(self, now: float) -> bool:
        """Seal the next segment if one is due. First of all, Redis drops what a killed sealer left in both places."""
        last, state = await self._last(), await self._store.learner_state()
        if stream_order(last) < stream_order(state.sealed):
            raise Damaged(
                f"{self._archive.directory} ends at {last}, expected {state.sealed}: is it the right directory?"
            )
        await self._store.drop_sealed(last)
        entries = await self._due(last, state.position, now)
        if not entries:
            return False
        await asyncio.to_thread(self._archive.seal, last, entries)
        await self._store.drop_sealed(entries[-1][0])
        return True

    async def _due(self, after: str, folded: str, now: float) -> list[Raw]:
        """A full segment of cold, folded events; a part of one only if it has waited for another hot window."""
        position = stream_order(folded)
        cold_ms, overdue_ms = ((now - n * self._config.hot_s) * 1000 for n in (1, 2))
        found: list[Raw] = []
        while len(found) < self._config.segment:
            page = await self._store.raw_events(after, min(_PAGE, self._config.segment - len(found)))
            cold = [one for one in page if stream_order(one[0]) <= position and stream_order(one[0])[0] <= cold_ms]
            found += cold
            if not page or len(cold) < len(page):
                break
            after = page[-1][0]
        full = len(found) >= self._config.segment
        return found if full or (found and stream_order(found[0][0])[0] <= overdue_ms) else []

    async def _follow(self) -> None:
        last = await self._last()
        with self._checkpoint() as checkpoint:
            if stream_order(checkpoint.position) < stream_order(last):
                await Refold(self._store, self._folding, checkpoint).advance(last)

    async def _drop(self, now: float) -> None:
        before = f"{int((now - self._config.keep_s) * 1000)}-0"
        if self._config.keep_s and await asyncio.to_thread(self._archive.drop, before):
            with self._checkpoint() as checkpoint:
                await asyncio.to_thread(checkpoint.drop, before)

    async def _last(self) -> str:
        return await asyncio.to_thread(lambda: self._archive.last)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(checkpoint_path(self._archive, self._folding), self._folding.signature)

    def _sweep(self) -> None:
        """Delete parts of segments, and checkpoints of other folds."""
        self._archive.sweep()
        drop_checkpoints(self._archive, keep=checkpoint_path(self._archive, self._folding))


def checkpoint_path(archive: Archive, folding: Folding) -> Path:
    """Where the checkpoint of a fold lies."""
    return archive.directory / f"checkpoint-{folding.signature}.sqlite"


def drop_checkpoints(archive: Archive, keep: Path | None = None) -> None:
    """Delete every checkpoint but one, with what SQLite keeps beside it. For the one process that writes."""
    for path in archive.directory.glob("checkpoint-*.sqlite*"):
        if keep is None or not path.name.startswith(keep.name):
            path.unlink(missing_ok=True)
