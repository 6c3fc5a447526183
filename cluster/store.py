"""All Redis access in one class: what requests write, what the Learner writes, and the history for readers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

from cluster.arm_store import ArmStore
from cluster.catalogue import CatalogueStore
from cluster.connection import Entry, entry
from cluster.deferred_store import DeferredStore
from cluster.events import Cancellation, Completion, Decision, Record
from cluster.forget_store import ForgetStore
from cluster.learner_store import LearnerStore, LedgerRow
from cluster.log_store import LogStore
from cluster.mode_store import ModeStore
from cluster.plan_store import PlanStore
from cluster.request_store import RequestStore
from cluster.router_store import RouterStore
from cluster.screen_store import ScreenStore

R = TypeVar("R", bound=Record)
_PAGE = 256


class Observation(NamedTuple):
    """What a source last said; no reward if the episode was truncated without one."""

    reward: float | None
    truncated: bool


@dataclass(frozen=True)
class StoredDecision:
    """A decision and what became of it; `observations` maps a source to its word, on the decision or its episode."""

    stream_id: str
    decision: Decision
    completion: Completion | None
    cancellation: Cancellation | None
    observations: dict[str, Observation]
    ledger: LedgerRow | None


class Store(
    RequestStore,
    LearnerStore,
    ArmStore,
    CatalogueStore,
    LogStore,
    ModeStore,
    DeferredStore,
    ForgetStore,
    RouterStore,
    ScreenStore,
    PlanStore,
):
    """The whole store. See `Connection` for its arguments."""

    async def decision(self, decision_id: str) -> StoredDecision | None:
        """The decision and what became of it; None if unknown or past the retention."""
        stream_id = cast(bytes | None, await self._redis.hget(self._key("decision", decision_id), "stream_id"))
        found = await self.entries([stream_id.decode()]) if stream_id else []
        stored = await self._stored([one for one in found if one])
        return stored[0] if stored else None

    async def decisions(self, limit: int, before: str | None = None, tenant: str | None = None) -> list[StoredDecision]:
        """Up to `limit` decisions, newest first, older than the stream id `before`; a tenant's, or everybody's."""
        found: list[Entry] = []
        end = f"({before}" if before else "+"
        while len(found) < limit:
            page = cast(list[Any], await self._redis.xrevrange(self._key("events"), end, count=_PAGE))
            read = [entry(*reply) for reply in page if reply[1][b"type"] == b"decision"]
            found += [one for one in read if tenant in (None, cast(Decision, one[1]).tenant)]
            if len(page) < _PAGE:
                break
            end = f"({page[-1][0].decode()}"
        return await self._stored(found[:limit])

    async def episode(self, episode_id: str) -> list[str] | None:
        """The episode's decision ids, in order; None if unknown or past the retention."""
        ids = cast(list[bytes], await self._redis.lrange(self._key("episode", episode_id), 0, -1))
        return [id_.decode() for id_ in ids] or None

    async def _stored(self, entries: Sequence[Entry]) -> list[StoredDecision]:
        pipeline = self._redis.pipeline(transaction=False)
        for _, event in entries:
            decision = cast(Decision, event)
            pipeline.hgetall(self._key("decision", decision.id))
            pipeline.hgetall(self._key("observations", "episode", decision.episode or ""))
            pipeline.hgetall(self._key("observations", "decision", decision.id))
        replies = await pipeline.execute()
        return [
            _stored(stream_id, cast(Decision, event), known, {**by_episode, **by_decision})
            for (stream_id, event), known, by_episode, by_decision in zip(
                entries, replies[::3], replies[1::3], replies[2::3], strict=True
            )
        ]


def _stored(
    stream_id: str, decision: Decision, known: dict[bytes, bytes], observations: dict[bytes, bytes]
) -> StoredDecision:
    return StoredDecision(
        stream_id,
        decision,
        _part(Completion, known.get(b"completion")),
        _part(Cancellation, known.get(b"cancellation")),
        {source.decode(): _observation(value) for source, value in observations.items()},
        _part(LedgerRow, known.get(b"ledger")),
    )


def _part(model: type[R], data: bytes | None) -> R | None:
    return None if data is None else model.model_validate_json(data)


def _observation(value: bytes) -> Observation:
    reward, truncated, *_ = value.split(b"|")
    return Observation(json.loads(reward), json.loads(truncated))
