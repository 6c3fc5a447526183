"""Deletion on request: what is asked for, and the parts of it that concern Redis."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from pydantic import model_validator
from redis.exceptions import ResponseError

from cluster.connection import Connection
from cluster.events import Forgotten, Record

_AT_ONCE = 500


class ForgetRequest(Record):
    """Delete a tenant's decisions, one decision, or what a key asked and said; `by` is the key that demands it."""

    time: float
    by: str
    tenant: str | None = None
    decision_id: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("tenant", "decision_id", "key") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of tenant, decision_id and key, got {given or 'none'}")
        return self


class ForgetStore(Connection):
    """The store as those see it who ask to forget, and the Learner, which does it."""

    async def ask_to_forget(self, id_: str, request: ForgetRequest) -> None:
        """Leave a request for the Learner; it stands until it is done."""
        await self._redis.hset(self._key("forget"), id_, request.model_dump_json())

    async def to_forget(self) -> dict[str, ForgetRequest]:
        """The requests that are not done yet, by id."""
        found = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("forget")))
        return {id_.decode(): ForgetRequest.model_validate_json(text) for id_, text in found.items()}

    async def forgotten(self) -> dict[str, Forgotten]:
        """What was done, by the id of the request."""
        found = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("forgotten")))
        return {id_.decode(): Forgotten.model_validate_json(text) for id_, text in found.items()}

    async def say_forgotten(self, id_: str, done: Forgotten) -> None:
        """Append that a request is done, once."""
        keys = [self._key(name) for name in ("events", "forget", "forgotten")]
        await self._scripts["forgotten"](keys, [id_, done.type, done.model_dump_json()])

    async def forget_decisions(self, episodes: Mapping[str, str | None]) -> None:
        """Delete what is kept of decisions besides their events, given the episode of each."""
        names = (("decision", ""), ("observations", "decision", ""), ("observations", "episode", ""))
        prefixes = [self._key(*name) for name in (*names, ("episode", ""), ("course", ""))]
        for some in _batches(list(episodes.items())):
            pairs = [text for id_, episode in some for text in (id_, episode or "")]
            await self._scripts["forget"]([self._key("deadlines"), self._key("screens")], [*prefixes, *pairs])

    async def unsay(self, target: tuple[str, str], label: str, members: Sequence[str]) -> None:
        """Take back what a source said of a target ("decision" or "episode", and its id), about these decisions."""
        keys = [self._key("deadlines"), self._key("observations", *target)]
        await self._scripts["unsay"](keys, [self._key("decision", ""), label, *members])

    async def erase(self, stream_ids: Sequence[str]) -> int:
        """Delete hot and deferred events; how many there were."""
        keys = [self._key("events"), self._key("learner"), self._key("deferred")]
        return sum([int(await self._scripts["erase"](keys, list(some))) for some in _batches(stream_ids)])

    async def compact(self) -> None:
        """Have the server write its file anew, without what was deleted, where it may be asked to."""
        try:
            await self._redis.bgrewriteaof()
        except ResponseError:  # it is at it already, or a managed server forbids it
            return


def _batches(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE)]
