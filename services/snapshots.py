"""The posterior as one Router knows it: the Learner's last snapshot, plus this Router's own later decisions."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from cluster.connection import START, UNAVAILABLE, stream_order
from cluster.learner_store import Snapshot
from cluster.store import Store
from policies.checks import Array
from policies.evidence import ArmStatistics
from policies.posterior import Posterior

log = logging.getLogger(__name__)
_RETRY_S = 0.5


class _Own(NamedTuple):
    stream_id: str
    arm: str
    x: Array


class SnapshotFollower:
    """Keeps a posterior up to date. Everything runs on one event loop, so a decision sees whole snapshots only."""

    def __init__(
        self, store: Store, posterior: Posterior, arms: Iterable[str], *, discount: float, refresh_s: float
    ) -> None:
        self._store = store
        self._discount = discount
        self._refresh_ms = int(refresh_s * 1000)
        self._own: deque[_Own] = deque()
        self._seen = START
        self.posterior = posterior
        self.version = 0
        self.position = START
        for arm in arms:
            self._put(arm, None)

    async def load(self) -> None:
        """Take over everything that is committed."""
        self._seen = await self._store.latest_version_id()
        state = await self._store.learner_state()
        for arm, (_, blob) in (await self._store.arms()).items():
            self._put(arm, blob)
        self._advance(state.version, state.position)

    async def follow(self) -> None:
        """Take over every new version until cancelled."""
        while True:
            try:
                await self.refresh(block_ms=self._refresh_ms)
            except UNAVAILABLE as error:
                log.warning("the store is away (%s): deciding on version %d", error, self.version)
                await asyncio.sleep(_RETRY_S)

    async def refresh(self, block_ms: int | None = None) -> None:
        """Take over the versions committed since the last call, waiting up to `block_ms` for one."""
        snapshots = await self._store.versions(self._seen, block_ms)
        if not snapshots:
            return
        if snapshots[0].version > self.version + 1:
            await self.load()
            return
        await self._apply(snapshots)

    def decided(self, stream_id: str, arm: str, x: Array) -> None:
        """Count a decision of this Router as pending until a snapshot has folded it."""
        if stream_order(stream_id) > stream_order(self.position):
            self._own.append(_Own(stream_id, arm, x))
            self.posterior.overlay(arm, x)

    async def _apply(self, snapshots: list[Snapshot]) -> None:
        changed = sorted({arm for snapshot in snapshots for arm in snapshot.arms})
        blobs = await self._store.arm_blobs(changed)
        for arm, blob in blobs.items():
            self._put(arm, blob)
        for arm in {arm for snapshot in snapshots for arm in snapshot.removed} - blobs.keys():
            if arm in self.posterior.arms:
                self.posterior.remove(arm)
        self._seen = snapshots[-1].stream_id
        self._advance(snapshots[-1].version, snapshots[-1].position, set(blobs))

    def _put(self, arm: str, blob: bytes | None) -> None:
        empty = ArmStatistics.empty(self.posterior.dimension, self._discount)
        self.posterior.put(arm, empty if blob is None else ArmStatistics.from_bytes(blob))

    def _advance(self, version: int, position: str, changed: set[str] | None = None) -> None:
        """Drop own decisions that the snapshot has folded, and overlay the others again on what was replaced."""
        self.version, self.position = version, position
        last = stream_order(position)
        self._own = deque(own for own in self._own if stream_order(own.stream_id) > last)
        for own in self._own:
            if own.arm in self.posterior.arms and (changed is None or own.arm in changed):
                self.posterior.overlay(own.arm, own.x)
