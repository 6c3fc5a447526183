"""What a request and its reward write: decisions, feedback, completions, cancellations, time-outs."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast
from uuid import uuid4

from pydantic_core import to_json

from cluster.connection import Argument, Connection
from cluster.events import (
    Cancellation,
    Completion,
    Decision,
    EpisodeStep,
    Feedback,
    decode,
    encode,
)

Status = Literal["recorded", "duplicate", "corrected", "late", "unknown"]


class Decided(NamedTuple):
    """A decision in the stream; `fresh` is False if it is the earlier decision of the same request key."""

    decision: Decision
    fresh: bool
    stream_id: str


class LastStep(NamedTuple):
    """The last decision of an episode."""

    stream_id: str
    arm: str
    step: EpisodeStep


class EpisodeMoved(RuntimeError):
    """The episode has had another decision since its last step was read: decide again after that one."""


class RequestStore(Connection):
    """The store as Routers and gateways see it. Every write is one script that may be sent twice without harm."""

    async def decide(
        self,
        decision: Decision,
        request_key: str | None = None,
        request_ttl_s: int = 600,
        *,
        replace: bool = False,
        after: LastStep | None = None,
    ) -> Decided:
        """Append the decision, unless `request_key` has one already; durable when this returns.

        With `replace` the key stands for this decision from now on: a new request that looks like an earlier one.
        `after` is the step of the episode that the decision was taken after, as `last_step` gave it. EpisodeMoved if
        it is not the last one any more; nothing was written then.
        """
        keys = [
            self._key("events"),
            self._key("decision", decision.id),
            self._key("deadlines"),
            "" if request_key is None else self._key("request", request_key),
            "" if decision.episode is None else self._key("episode", decision.episode),
            "" if decision.episode is None else self._key("course", decision.episode),
        ]
        deadline = decision.time + self._reward_window_s
        args: list[Argument] = [
            decision.id,
            decision.time,
            deadline,
            self._key_ttl_s,
            request_ttl_s,
            int(replace),
            after.stream_id if after else "",
            decision.arm,
            decision.step.model_dump_json() if decision.step else "",
            decision.tenant or "",
            *_flat(decision),
        ]
        fresh, *reply = await self._scripts["decide"](keys, args)
        if not reply:
            raise EpisodeMoved(
                f"episode {decision.episode!r} has gone on since {after.stream_id if after else 'it began'}"
            )
        stream_id, *earlier = reply
        if fresh or earlier:
            return Decided(_decision(earlier[0]) if earlier else decision, bool(fresh), stream_id.decode())
        (sealed,) = await self.entries([stream_id.decode()])
        if sealed:
            return Decided(cast(Decision, sealed[1]), False, sealed[0])
        return await self.decide(decision, request_key, request_ttl_s, replace=True, after=after)

    async def last_step(self, episode: str) -> LastStep | None:
        """The episode's last decision; none before its first one. Every Router sees the same."""
        names = ["stream_id", "arm", "step"]
        stream_id, arm, step = cast(list[bytes | None], await self._redis.hmget(self._key("course", episode), names))
        if not stream_id or not arm or not step:
            return None
        return LastStep(stream_id.decode(), arm.decode(), EpisodeStep.model_validate_json(step))

    async def decision_of_request(self, request_key: str) -> Decision | None:
        """The decision that a retried request got, so that it is recognised before deciding again."""
        stream_id = cast(bytes | None, await self._redis.get(self._key("request", request_key)))
        if stream_id is None:
            return None
        (found,) = await self.entries([stream_id.decode()])
        return cast(Decision, found[1]) if found else None

    async def known(self, decision_ids: Sequence[str]) -> set[str]:
        """Those that are written, and not past the retention."""
        pipeline = self._redis.pipeline(transaction=False)
        for id_ in decision_ids:
            pipeline.exists(self._key("decision", id_))
        found = await pipeline.execute()
        return {id_ for id_, there in zip(decision_ids, found, strict=True) if there}

    async def feedback(self, items: Sequence[Feedback]) -> list[Status]:
        """Record each item by itself, in one round trip; the store fills in late, previous and members.

        unknown: no such decision or episode, another tenant's, or older than the retention; nothing is written.
        duplicate: the target has this reward from this source; nothing is written. corrected: it had another one.
        late: its first one, after the reward window or the time-out. recorded: its first one, in time.
        """
        async with self._redis.pipeline(transaction=False) as pipeline:
            for item in items:
                await self._scripts["feedback"](self._feedback_keys(item), self._feedback_args(item), client=pipeline)
            return [cast(Status, status.decode()) for status in await pipeline.execute()]

    async def complete(self, completion: Completion) -> bool:
        """Append the completion; False if the decision has one already or is unknown."""
        return await self._outcome(completion)

    async def cancel(self, cancellation: Cancellation) -> bool:
        """Append the cancellation and stop waiting for a reward; False if cancelled already or unknown."""
        return await self._outcome(cancellation)

    async def post_timeouts(self, now: float, limit: int = 1000) -> int:
        """Append a time-out for at most `limit` decisions whose window closed by `now` (unix s); how many."""
        keys = [self._key("events"), self._key("deadlines")]
        prefix = self._key("decision", "")
        return int(await self._scripts["timeouts"](keys, [to_json(float(now)), limit, prefix]))

    def _feedback_keys(self, item: Feedback) -> list[str]:
        common = [self._key("events"), self._key("deadlines"), self._key("sent", uuid4().hex)]
        if item.episode_id is None:
            return [*common, self._key("observations", "decision", item.decision_id or ""), ""]
        return [*common, self._key("observations", "episode", item.episode_id), self._key("episode", item.episode_id)]

    def _feedback_args(self, item: Feedback) -> list[Argument]:
        return [
            self._key("decision", ""),
            item.decision_id or "",
            item.label,
            to_json(item.reward),
            to_json(item.truncated),
            item.time,
            self._retention_s,
            self._key_ttl_s,
            item.model_dump_json(exclude={"late", "previous", "members"}),
            item.tenant or "",
        ]

    async def _outcome(self, event: Completion | Cancellation) -> bool:
        keys = [self._key("events"), self._key("decision", event.decision_id), self._key("deadlines")]
        settled = event.decision_id if isinstance(event, Cancellation) else ""
        return bool(await self._scripts["outcome"](keys, [event.type, event.model_dump_json(), settled]))


def _flat(decision: Decision) -> list[bytes]:
    return [part for field in encode(decision).items() for part in field]


def _decision(flat: Sequence[Any]) -> Decision:
    return cast(Decision, decode(dict(zip(flat[::2], flat[1::2], strict=True))))
