"""Whether the posterior in use is what the log comes to, event by event."""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from cluster.checkpoint import Checkpoint
from cluster.learner_store import Changes
from cluster.settings import Settings
from cluster.store import Store
from cluster.stream import START, stream_order
from policies.checks import Array
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from services.configuration import feedback_rules, learning_config, make_store
from services.learning.folding import Folding, Refold
from services.learning.sealing import checkpoint_path
from services.learning.states import is_state

TOLERANCE = 1e-9
_SUMS = ("S", "e", "P")
_COUNTS = ("tick", "pulls", "pending", "matured", "kappa", "adapter_hash", "former")


class ArmDifference(BaseModel):
    """How far an arm in use is from its fold: the largest difference of each sum over its largest entry."""

    arm: str
    S: float
    e: float
    P: float
    counts_equal: bool

    @property
    def largest(self) -> float:
        """The largest of the three."""
        return max(self.S, self.e, self.P)


class Verification(BaseModel):
    """A fold of the log from `start` to `position` (stream ids), compared with what is in use there."""

    version: int
    start: str
    position: str
    tolerance: float
    ok: bool
    arms: list[ArmDifference]


class NotComparable(RuntimeError):
    """What is in use was folded in another way, or of events that are not there any more, or is being folded again."""


async def verify(store: Store, folding: Folding, *, whole: bool = False) -> Verification:
    """Fold from the last checkpoint, or with `whole` from the first event, and compare. Raises NotComparable."""
    with tempfile.TemporaryDirectory() as scratch:
        used = await store.changes()
        if used.version and (used.rebuilding or used.signature != folding.signature):
            raise NotComparable(f"the posterior is of the fold {used.signature}, expected {folding.signature}")
        path = Path(scratch) / "scratch.sqlite"
        with await asyncio.to_thread(_begin, store, folding, used.position, path, whole) as checkpoint:
            start, refold = checkpoint.position, Refold(store, folding, checkpoint)
            await refold.advance(used.position)
            found = _compare(used, start, refold.arms)
        if not found.ok and start == START and (begin := await asyncio.to_thread(_begins, store)) != START:
            expected = "expected the log from its beginning: compare from the checkpoint"
            raise NotComparable(f"events up to {begin} are gone, as store.keep_s says, {expected}")
        return found


def _begin(store: Store, folding: Folding, until: str, scratch: Path, whole: bool) -> Checkpoint:
    """A copy of the last checkpoint, or an empty one."""
    path = checkpoint_path(store.archive, folding) if store.archive else None
    if path and path.exists() and not whole:
        with Checkpoint(path, folding.signature) as last:
            if stream_order(last.position) <= stream_order(until):
                return last.copy(scratch)
    return Checkpoint(scratch, folding.signature)


def _begins(store: Store) -> str:
    """The stream id after which the log begins, now that old events are gone."""
    segments = store.archive.segments() if store.archive else []
    return segments[0].after if segments else START


def _compare(used: Changes, start: str, folded: Mapping[str, ArmStatistics]) -> Verification:
    names = {name for name in used.blobs if not is_state(name)} | folded.keys()
    arms = [_difference(arm, used.blobs.get(arm), folded.get(arm)) for arm in sorted(names)]
    ok = all(arm.counts_equal and arm.largest <= TOLERANCE for arm in arms)
    return Verification(
        version=used.version, start=start, position=used.position, tolerance=TOLERANCE, ok=ok, arms=arms
    )


def _difference(arm: str, blob: bytes | None, folded: ArmStatistics | None) -> ArmDifference:
    if blob is None or folded is None:
        return ArmDifference(arm=arm, S=1.0, e=1.0, P=1.0, counts_equal=False)
    used = ArmStatistics.from_bytes(blob)
    sums = {name: relative(getattr(used, name), getattr(folded, name)) for name in _SUMS}
    equal = all(getattr(used, name) == getattr(folded, name) for name in _COUNTS)
    return ArmDifference(arm=arm, counts_equal=equal, **sums)


def relative(one: Array, other: Array) -> float:
    """The largest absolute difference over the largest absolute entry; 0 where both are zero."""
    scale = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    return float(np.abs(one - other).max(initial=0.0) / scale) if scale else 0.0


async def verify_apart(settings: Settings, contexts: ContextMap, *, whole: bool = False) -> Verification:
    """`verify` in a process of its own, so that a Router goes on deciding meanwhile."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, _alone, settings, contexts, whole)
    finally:
        pool.shutdown(wait=False)


def _alone(settings: Settings, contexts: ContextMap, whole: bool) -> Verification:
    async def connected() -> Verification:
        folding = Folding(contexts, learning_config(settings), feedback_rules(settings))
        async with make_store(settings) as store:
            return await verify(store, folding, whole=whole)

    return asyncio.run(connected())
