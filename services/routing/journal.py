"""What a Router writes: into the store, or kept here while the store is away and written when it is back."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from cluster.connection import UNAVAILABLE
from cluster.events import Cancellation, Completion, Decision
from cluster.request_store import Decided, LastStep
from cluster.store import Store

log = logging.getLogger(__name__)
_PROBE_S = 0.5

Written = Callable[[Decided], None]
"""Told once the decision is in the stream."""


class Full(ConnectionError):
    """The store is away and as many decisions are kept as may be."""


class _Kept(NamedTuple):
    event: Decision | Completion | Cancellation
    written: Written | None = None


class Journal:
    """Writes decisions and their ends; when the store does not answer in time, keeps up to `bound` decisions in memory.

    While it keeps any it does not wait for the store: `away` says so. What is kept is written in its order as soon as
    the store answers again. A process that is killed meanwhile takes it along: such decisions are not durable.
    """

    def __init__(self, store: Store, *, bound: int, patience_s: float) -> None:
        self._store = store
        self.bound = bound
        self._patience_s = patience_s
        self._kept: deque[_Kept] = deque()
        self._decisions: set[str] = set()
        self._arrived = asyncio.Event()
        self.away = False

    @property
    def size(self) -> int:
        """Decisions that wait to be written."""
        return len(self._decisions)

    @contextlib.asynccontextmanager
    async def patience(self) -> AsyncIterator[None]:
        """Ask the store inside; it is away when it does not answer in time. Raises what `UNAVAILABLE` lists."""
        try:
            async with asyncio.timeout(self._patience_s):
                yield
        except UNAVAILABLE:
            self.away = True
            self._arrived.set()  # nothing may be kept, and it must be noticed all the same when the store is back
            raise

    async def decide(
        self, decision: Decision, request_key: str | None, request_ttl_s: int, *, replace: bool, after: LastStep | None
    ) -> Decided:
        """Append the decision to the stream, durable when this returns. Raises EpisodeMoved, or if the store is away.

        Then, or when the caller gives up, it may have been written all the same: it is withdrawn.
        """
        try:
            async with self.patience():
                return await self._store.decide(decision, request_key, request_ttl_s, replace=replace, after=after)
        except (*UNAVAILABLE, asyncio.CancelledError):
            self._keep(_Kept(Cancellation(time=decision.time, decision_id=decision.id, reason="it was not written")))
            raise

    def keep(self, decision: Decision, written: Written) -> None:
        """Keep a decision that stands by itself until the store is back. Raises Full."""
        if self.size >= self.bound:
            raise Full(f"the store is away, and {self.size} of at most {self.bound} decisions are kept: try again")
        self._decisions.add(decision.id)
        self._keep(_Kept(decision, written))

    async def end(self, event: Completion | Cancellation) -> None:
        """Log how a decision's answer ended; kept if its decision is, or if the store is away."""
        if event.decision_id not in self._decisions and not self.away:
            try:
                async with self.patience():
                    await self._write(_Kept(event))
                return
            except UNAVAILABLE as error:
                log.warning("the end of an answer is kept: %s", error)
        self._keep(_Kept(event))

    async def run(self) -> None:
        """Write what is kept whenever the store answers, until cancelled."""
        while True:
            await self._arrived.wait()
            try:
                await self.drain()
            except UNAVAILABLE:
                await asyncio.sleep(_PROBE_S)

    async def drain(self) -> None:
        """Write everything that is kept, in its order. Raises what `UNAVAILABLE` lists; nothing is lost then."""
        while self._kept or self.away:
            first = self._kept[0] if self._kept else None
            async with self.patience():
                await (self._write(first) if first else self._store.open())
            self.away = False
            if first:
                self._kept.popleft()
                self._decisions.discard(getattr(first.event, "id", ""))
        self._arrived.clear()

    async def _write(self, kept: _Kept) -> None:
        match kept.event:
            case Decision():
                decided = await self._store.decide(kept.event)
                if kept.written:
                    kept.written(decided)
            case Completion():
                await self._store.complete(kept.event)
            case Cancellation():
                await self._store.cancel(kept.event)

    def _keep(self, kept: _Kept) -> None:
        self._kept.append(kept)
        self._arrived.set()
