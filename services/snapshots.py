"""The posterior as one Router knows it: the Learner's last snapshot, plus this Router's own later decisions."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Collection, Mapping
from itertools import islice
from typing import NamedTuple

from cluster.connection import UNAVAILABLE
from cluster.events import Basis, Mode
from cluster.learner_store import Changes
from cluster.log_store import Behind
from cluster.store import Store
from cluster.stream import START, stream_order
from policies.checks import Array
from policies.evidence import ArmStatistics
from policies.posterior import Posterior, Prepared
from services.arms import Arms
from services.learning.fold import FROZEN, WATCH
from services.learning.watch import GuardView, guard_view

log = logging.getLogger(__name__)
_RETRY_S = 0.5
_LATEST = 64  # own decisions named one by one with a decision: more than are ever written at the same time out of order


class _Own(NamedTuple):
    stream_id: str
    arm: str
    x: Array


class SnapshotFollower:
    """Keeps a posterior up to date. Everything runs on one event loop, so a decision sees whole snapshots only."""

    def __init__(
        self,
        store: Store,
        posterior: Posterior,
        arms: Arms,
        *,
        discount: float,
        refresh_s: float,
        mode: Mode = "online",
    ) -> None:
        self._store = store
        self._discount = discount
        self._refresh_ms = max(1, int(refresh_s * 1000))
        self._router = ""
        self._own: deque[_Own] = deque()
        self._seen = START
        self.id = secrets.token_hex(4)
        self.arms = arms
        self.posterior = posterior
        self.version = 0
        self.position = START
        self.folded = 0
        self._known: frozenset[str] = frozenset()
        self._taking = asyncio.Lock()
        self._first_mode: Mode = mode
        self.mode = mode
        self.watched: bytes | None = None
        self.guard: GuardView | None = None  # what the guard has found, as of the last snapshot
        self._follow_arms()

    async def start(self, router: str) -> None:
        """Take over everything that was folded with the context map `router`; no other evidence fits, now or later."""
        self._router = router
        self._seen = await self._store.latest_version_id()
        self.mode = await self._store.mode() or self._first_mode
        await self._take()

    @property
    def frozen(self) -> bool:
        """Whether the beliefs stand as they were when an operator froze them."""
        return self.mode == "frozen"

    async def behind(self) -> Behind:
        """What has happened that these beliefs do not hold yet."""
        return await self._store.behind(self.position, self.folded)

    async def follow(self) -> None:
        """Take over every new version until cancelled."""
        while True:
            try:
                await self.refresh(block_ms=self._refresh_ms)
            except UNAVAILABLE as error:
                log.warning("the store is away (%s): deciding on version %d", error, self.version)
                await asyncio.sleep(_RETRY_S)

    async def refresh(self, block_ms: int | None = None) -> None:
        """Take over the versions and changes of arms since the last call, waiting up to `block_ms` for a version."""
        snapshots = await self._store.versions(self._seen, block_ms)
        if snapshots:
            self._seen = snapshots[-1].stream_id
        await self.follow_mode()
        if snapshots or await self.arms.is_behind(self._store):
            await self._take()

    @property
    def basis(self) -> Basis:
        """What a decision that is taken now is based on: enough to build the same posterior again from the events."""
        latest = [own.stream_id for own in islice(reversed(self._own), _LATEST)]
        return Basis(follower=self.id, position=self.position, pending=len(self._own), latest=latest[::-1])

    def decided(self, stream_id: str, arm: str, x: Array) -> None:
        """Count a decision of this Router as pending until a snapshot has folded it."""
        if stream_order(stream_id) > stream_order(self.position):
            self._own.append(_Own(stream_id, arm, x))
            if not self.frozen:
                self._overlay(arm, x)

    async def follow_mode(self) -> None:
        """Take over the mode; into and out of frozen, all beliefs are read again."""
        before, self.mode = self.mode, await self._store.mode() or self._first_mode
        if before != self.mode and "frozen" in (before, self.mode):
            await self._take(whole=True)

    async def _take(self, *, whole: bool = False) -> None:
        """Take over all that changed, as of one moment. Evidence of another router, or half folded, is left alone."""
        async with self._taking:
            frozen, behind = self.frozen, await self.arms.is_behind(self._store)
            version, roster = (await self._store.roster_version(), await self._store.roster()) if behind else (0, {})
            changes = await self._store.changes(0 if behind or whole else self.version)
            if changes.version < self.version:  # the store was lost and began again
                changes = await self._store.changes()
            fits = changes.router == self._router and not changes.rebuilding
            prepared = await asyncio.to_thread(self._prepare, _believed(changes.blobs, frozen)) if fits else {}
            # Nothing awaits from here on: a decision sees all of it or nothing.
            if behind:
                self.arms.put(version, roster, changes.names if fits else self._known)
                self._follow_arms()
            if fits:
                self._swap(changes, prepared, frozen)

    def _prepare(self, blobs: Mapping[str, bytes]) -> dict[str, Prepared]:
        """What the changed arms are believed to earn. In a thread: it takes long where arms are many."""
        statistics = {arm: ArmStatistics.from_bytes(blob) for arm, blob in blobs.items()}
        return {arm: self.posterior.prepare(arm, known) for arm, known in statistics.items()}

    def _follow_arms(self) -> None:
        for arm in set(self.posterior.arms) - set(self.arms.names):
            self.posterior.remove(arm)
        for arm in self.arms.names:
            if arm not in self.posterior.arms:
                self.posterior.put(arm, self._empty())

    def _swap(self, changes: Changes, prepared: Mapping[str, Prepared], frozen: bool) -> None:
        gone = {arm for arm in self.arms.names if arm not in changes.names and arm in self._known and not frozen}
        changed = [arm for arm in self.arms.names if arm in prepared or arm in gone]
        for arm in changed:
            self.posterior.swap(prepared[arm] if arm in prepared else self.posterior.prepare(arm, self._empty()))
        self._known, self.folded = changes.names, changes.folded
        if WATCH in changes.blobs:
            self.watched = changes.blobs[WATCH]
            self.guard = guard_view(self.watched)
        self._advance(changes.version, changes.position, changed)

    def _empty(self) -> ArmStatistics:
        return ArmStatistics.empty(self.posterior.dimension, self._discount)

    def _advance(self, version: int, position: str, changed: Collection[str]) -> None:
        """Drop own decisions that the snapshot has folded, and overlay the others again on what was replaced."""
        self.version, self.position = version, position
        last = stream_order(position)
        self._own = deque(own for own in self._own if stream_order(own.stream_id) > last)
        for own in () if self.frozen else self._own:
            if self.arms.current(own.arm) in changed:
                self._overlay(own.arm, own.x)

    def _overlay(self, arm: str, x: Array) -> None:
        """Count a decision as pending at its arm, by whatever name; not at one that is gone."""
        if (now := self.arms.current(arm)) in self.arms:
            self.posterior.overlay(now, x)


def _believed(blobs: Mapping[str, bytes], frozen: bool) -> dict[str, bytes]:
    """The statistics to decide on, by arm: the live ones, or those of the freezing."""
    if frozen:
        return {name.removeprefix(FROZEN): blob for name, blob in blobs.items() if name.startswith(FROZEN) and blob}
    return {name: blob for name, blob in blobs.items() if not name.startswith("@")}
