"""What is said of decisions that cannot be read now waits beside the log, in its order, and comes back to its end."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from cluster.archive import Damaged
from cluster.connection import Entry
from cluster.events import Decision
from cluster.learner_store import LedgerRow
from cluster.store import Store
from services.learning.fold import Fold

log = logging.getLogger(__name__)
ALARM = "deferred"

Ledger = dict[str, tuple[Decision, LedgerRow | None]]


class Sifted(NamedTuple):
    """Entries that can be folded with the ledger, and the stream ids of those that have to wait."""

    ready: list[Entry]
    ledger: Ledger
    waiting: list[str]


class Deferral:
    """A damaged segment stops no learning: events on its decisions leave the log until it is restored.

    They come back at the end of the log, so what is in use stays the fold of the log. An event also waits while an
    earlier one on one of its decisions does: the last word must come last.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocked: set[str] = set()
        self.any = False

    async def load(self) -> None:
        """Take over what waits, and say so."""
        entries = await self._store.deferred()
        self._blocked = Fold.references(*(event for _, event in entries))
        self.any = bool(entries)
        if not entries:
            await self._store.clear_alarm(ALARM)
            return
        _, reasons = await self._read(sorted(self._blocked))
        why = "; ".join(sorted(set(reasons.values()))) or "it can be read again"
        message = f"{len(entries)} events on sealed decisions wait until they can be read: {why}"
        await self._store.raise_alarm(ALARM, message)
        log.error(message)

    async def sift(self, entries: Sequence[Entry]) -> Sifted:
        """Tell the entries that can be folded now from those that have to wait, beside the ones that do already."""
        ledger, reasons = await self._read(sorted(Fold.references(*(event for _, event in entries))))
        ready, waiting = _parted(entries, self._blocked | reasons.keys())
        return Sifted(ready, ledger, [at for at, _ in waiting])

    async def release(self, position: str) -> bool:
        """Let come back what can be read again, if everything up to the log's end, `position`, is folded."""
        entries = await self._store.deferred()
        _, reasons = await self._read(sorted(Fold.references(*(event for _, event in entries))))
        ready, _ = _parted(entries, set(reasons))
        released = await self._store.release(position, [at for at, _ in ready]) if ready else 0
        if released:
            log.warning("%d events on sealed decisions can be folded after all", released)
            await self.load()
        return released > 0

    async def _read(self, ids: Sequence[str]) -> tuple[Ledger, dict[str, str]]:
        """The decisions that can be read, and why others cannot."""
        try:
            return await self._store.ledger(ids), {}
        except Damaged as error:
            if len(ids) == 1:
                return {}, {ids[0]: str(error)}
        half = len(ids) // 2
        (one, failed), (other, failed_too) = await self._read(ids[:half]), await self._read(ids[half:])
        return one | other, failed | failed_too


def _parted(entries: Sequence[Entry], blocked: set[str]) -> tuple[list[Entry], list[Entry]]:
    """Entries about none of the blocked decisions, and the others, which block what they are about in turn."""
    ready, waiting, blocked = [], [], set(blocked)
    for at, event in entries:
        about = Fold.references(event)
        if about & blocked:
            blocked |= about
            waiting.append((at, event))
        else:
            ready.append((at, event))
    return ready, waiting
