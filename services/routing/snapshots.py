"""The posterior as one Router knows it: the Learner's last snapshot, plus this Router's own later decisions."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
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
from services.catalogue.arms import Arms
from services.learning.states import MODE, WATCH, frozen, is_state
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
        self._chosen: Mode | None = None  # by an operator; none: the setting holds
        self._thawed: Mode = "online" if mode == "frozen" else mode  # the last mode in force that was not frozen
        self._folded_mode = b""
        self.frozen = False  # whether the beliefs are those of the last freezing
        self.watched: bytes | None = None
        self.guard: GuardView | None = None  # what the guard has found, as of the last snapshot
        self._follow_arms()

    async def start(self, router: str) -> None:
        """Take over everything that was folded with the context map `router`; no other evidence fits, now or later."""
        self._router = router
        self._seen = await self._store.latest_version_id()
        await self.follow_mode()
        await self._take()

    @property
    def mode(self) -> Mode:
        """The mode in force: the one that was chosen, frozen once the Learner has frozen the beliefs."""
        return "frozen" if self.frozen else self._thawed

    async def behind(self) -> Behind:
        """What has happened that these beliefs do not hold yet."""
        return await self._store.behind(self.position, self.folded)

    async def follow(self, until: Callable[[], Awaitable[bool]]) -> None:
        """Take over every new version, until `until`, which is asked after each, says that it is enough."""
        while True:
            try:
                await self.refresh(block_ms=self._refresh_ms)
                if await until():
                    return
            except UNAVAILABLE as error:
                log.warning("the store is away (%s): deciding on version %d", error, self.version)
                await asyncio.sleep(_RETRY_S)

    async def refresh(self, block_ms: int | None = None) -> None:
        """Take over the versions and changes of arms since the last call, waiting up to `block_ms` for a version."""
        snapshots = await self._store.versions(self._seen, block_ms)
        await self.follow_mode()
        if snapshots or await self.arms.is_behind(self._store):
            await self._take()
        if snapshots:  # not before they are taken over: the store may have gone away in between
            self._seen = snapshots[-1].stream_id

    @property
    def basis(self) -> Basis:
        """What a decision that is taken now is based on: enough to build the same posterior again from the events."""
        latest = [own.stream_id for own in islice(reversed(self._own), _LATEST)]
        return Basis(
            follower=self.id,
            position=self.position,
            pending=len(self._own),
            latest=latest[::-1],
            frozen=self.frozen,
        )

    def decided(self, stream_id: str, arm: str, x: Array) -> None:
        """Count a decision of this Router as pending until a snapshot has folded it."""
        if stream_order(stream_id) > stream_order(self.position):
            self._own.append(_Own(stream_id, arm, x))
            if not self.frozen:
                self._overlay(arm, x)

    async def follow_mode(self) -> None:
        """Take over the mode; into and out of frozen, all beliefs are read again."""
        self._chosen = await self._store.mode()
        chosen = self._chosen or self._first_mode
        if chosen != "frozen":
            self._thawed = chosen
        if self._freezes(self._folded_mode) != self.frozen:
            await self._take()

    def _freezes(self, folded: bytes) -> bool:
        """Whether to decide on frozen beliefs, given the last mode that was folded: not before there are any."""
        if self._chosen is None:
            return self._first_mode == "frozen"
        return self._chosen == "frozen" and folded == b"frozen"

    async def _take(self) -> None:
        """Take over all that changed, as of one moment. Evidence of another router, or half folded, is left alone."""
        async with self._taking:
            behind = await self.arms.is_behind(self._store)
            news = await self.arms.news(self._store) if behind else None
            changes, whole = await self._changes(behind)
            freezes = self._freezes(changes.blobs.get(MODE, self._folded_mode))
            fits = changes.router == self._router and not changes.rebuilding
            prepared = await asyncio.to_thread(self._prepare, _believed(changes.blobs, freezes)) if fits else {}
            # Nothing awaits from here on: a decision sees all of it or nothing.
            if news:
                self.arms.put(news, changes.names if fits else self._known)
                self._follow_arms()
            if fits:
                self.frozen, self._folded_mode = freezes, changes.blobs.get(MODE, self._folded_mode)
                self._swap(changes, prepared, whole)

    async def _changes(self, whole: bool) -> tuple[Changes, bool]:
        """What was committed since the last version, or all that there is, and whether it is all."""
        if not whole:
            changes = await self._store.changes(self.version)
            lost = changes.version < self.version  # the store began again
            if not lost and self._freezes(changes.blobs.get(MODE, self._folded_mode)) == self.frozen:
                return changes, False
        return await self._store.changes(), True

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

    def _swap(self, changes: Changes, prepared: Mapping[str, Prepared], whole: bool) -> None:
        gone = self._known - changes.names if not self.frozen else frozenset()
        changed = [arm for arm in self.arms.names if whole or arm in prepared or arm in gone]
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


def _believed(blobs: Mapping[str, bytes], freezes: bool) -> dict[str, bytes]:
    """The statistics to decide on, by arm: the live ones, or those of the freezing."""
    return frozen(blobs) if freezes else {name: blob for name, blob in blobs.items() if not is_state(name)}
