"""Folding stretches of the log onto a checkpoint: for sealing, for verification, and after a setting has changed."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from cluster.checkpoint import Checkpoint, Placed
from cluster.connection import Entry
from cluster.events import Decision
from cluster.learner_store import LedgerRow
from cluster.store import Store
from cluster.stream import START, stream_order
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig
from services.learning.fold import Fold
from services.learning.rewards import FeedbackRules
from services.learning.states import is_state
from services.learning.watch import WatchConfig

_FORMAT = 3  # of what is folded; another one folds everything again
_RECENT = 10_000  # decisions that are kept at hand

Beat = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, eq=False)
class Folding:
    """Everything besides the log that decides the outcome of its fold."""

    contexts: ContextMap
    config: LearningConfig
    rules: FeedbackRules = FeedbackRules()
    watching: WatchConfig = WatchConfig()

    def start(self, arms: Mapping[str, bytes]) -> Fold:
        """A fold that goes on from serialised statistics of the arms, and states."""
        states = {name: blob for name, blob in arms.items() if is_state(name)}
        statistics = {arm: ArmStatistics.from_bytes(blob) for arm, blob in arms.items() if arm not in states}
        return Fold(self.contexts, self.config, statistics, self.rules, self.watching, states)

    @cached_property
    def signature(self) -> str:
        """16 hex digits that change with the outcome for the arms; what is watched may change without a new fold."""
        settings = {**asdict(self.config), **asdict(self.rules)}
        numbers = {name: float(value) if isinstance(value, int) else value for name, value in settings.items()}
        parts = [_FORMAT, self.contexts.fingerprint, numbers]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Refold:
    """Moves a checkpoint on along the log. What it needs to know of earlier decisions is in the checkpoint too."""

    def __init__(self, store: Store, folding: Folding, checkpoint: Checkpoint) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._fold = folding.start(checkpoint.arms())
        self._recent: OrderedDict[str, tuple[str, Decision]] = OrderedDict()

    @property
    def arms(self) -> dict[str, ArmStatistics]:
        """The statistics at the checkpoint's position."""
        return self._fold.arms

    async def advance(self, until: str, beat: Beat | None = None) -> None:
        """Fold what comes after the checkpoint up to the stream id `until`; `beat` is called with each position."""
        if stream_order(until) <= stream_order(START):
            return
        async for batch in self._store.history(self._checkpoint.position, until):
            ledger = await self._ledger(batch)
            await asyncio.to_thread(self._take, batch, ledger)
            if beat:
                await beat(batch[-1][0])

    def _take(self, batch: Sequence[Entry], ledger: Mapping[str, tuple[Decision, LedgerRow | None]]) -> None:
        fold = self._fold
        for _, event in batch:
            fold.apply(event, ledger)
        arms = fold.changed()
        rows = {id_: Placed(self._recent[id_][0], row) for id_, row in fold.rows.items()}
        self._checkpoint.advance(batch[-1][0], arms, rows, fold.gone)
        fold.clear()
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    async def _ledger(self, batch: Sequence[Entry]) -> dict[str, tuple[Decision, LedgerRow | None]]:
        """The decisions that the batch refers to, with their rows as of the checkpoint."""
        self._recent.update((event.id, (at, event)) for at, event in batch if isinstance(event, Decision))
        wanted = sorted(Fold.references(*(event for _, event in batch)))
        rows = await asyncio.to_thread(self._checkpoint.rows, wanted)
        await self._recall({id_: placed.stream_id for id_, placed in rows.items() if id_ not in self._recent})
        return {id_: (self._recent[id_][1], placed.row) for id_, placed in rows.items() if id_ in self._recent}

    async def _recall(self, places: Mapping[str, str]) -> None:
        found = await self._store.entries(list(places.values())) if places else []
        for id_, entry in zip(places, found, strict=True):
            if entry and isinstance(entry[1], Decision):
                self._recent[id_] = (entry[0], entry[1])
