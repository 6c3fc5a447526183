"""What the Learner reads and writes, and what Routers take over from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from pydantic import Field
from pydantic_core import to_json

from cluster.connection import START, Argument, Connection
from cluster.events import Decision, Event, Record


class Fenced(RuntimeError):
    """A commit was refused: another Learner has taken over, or the version moved. Nothing was written."""


class Watched(Record):
    """What the served arm weighs under policies: 1/propensity where a policy's own choice was that arm, else 0.

    `own` is for the choice of the policy that served, `reference` for the supervised one, `same` whether these are the
    same arm, `others` by name.
    """

    own: float
    reference: float
    same: bool
    guarded: bool
    policy: str
    others: dict[str, float]


class Counted(Record):
    """What policies were scored by a unit with: its reward, none once it was withdrawn, and its weight under each."""

    reward: float | None
    weights: dict[str, float]


class LedgerRow(Record):
    """What the Learner has made of one decision: when the arm took it (its own count), and what was folded.

    `rewards` maps whose word it is (`Feedback.label`) to the last word, `voices` a key to its share of a full voice,
    where that is less than 1. `answered` tells that the decision's answer was generated to its end.
    """

    tick: int
    arm: str
    status: Literal["pending", "matured", "cancelled", "timed_out", "censored"]
    weight: float
    rewards: dict[str, float]
    voices: dict[str, float] = Field(default_factory=dict)
    answered: bool = False
    watched: Watched | None = None
    counted: Counted | None = None


class LearnerState(NamedTuple):
    """How far the Learner is: `position` is the last folded stream id, `time` (unix s) the last folded event's.

    `router` is the fingerprint of the context map that the evidence was folded with, `alive` (unix s) the Learner's
    last sign of life. `signature` names everything that decides the outcome of the fold. While the events are folded
    again after that has changed, `rebuilding` is the position to reach; else it is empty. `folded` counts the folded
    among all events that were ever appended, `trimmed` those that have left Redis; up to `sealed` all are in the
    archive.
    """

    epoch: int
    version: int
    position: str
    time: float
    router: str
    alive: float
    signature: str = ""
    rebuilding: str = ""
    folded: int = 0
    trimmed: int = 0
    sealed: str = START


class Changes(NamedTuple):
    """What was committed after some version, as of one moment: blobs of the changed arms, names of all there are."""

    version: int
    position: str
    router: str
    signature: str
    rebuilding: str
    folded: int
    names: frozenset[str]
    blobs: dict[str, bytes]


class Snapshot(NamedTuple):
    """One committed version: the arms it changed and removed, and the last stream id it has folded."""

    stream_id: str
    version: int
    arms: list[str]
    removed: list[str]
    position: str


class LearnerStore(Connection):
    """The store as the Learner sees it, and its published versions."""

    async def acquire_epoch(self) -> int:
        """Become the Learner: every commit with an earlier epoch is refused from now on."""
        return int(await self._redis.hincrby(self._key("learner"), "epoch", 1))

    async def learner_state(self) -> LearnerState:
        """The state as last committed; zeros and the start of the stream before the first commit."""
        stored = cast(list[Any], await self._redis.hmget(self._key("learner"), list(LearnerState._fields)))
        epoch, version, position, time, router, alive, signature, rebuilding, folded, trimmed, sealed = stored
        position, router = (position or START.encode()).decode(), (router or b"").decode()
        return LearnerState(
            epoch=int(epoch or 0),
            version=int(version or 0),
            position=position,
            time=float(time or 0),
            router=router,
            alive=float(alive or 0),
            signature=(signature or b"").decode(),
            rebuilding=(rebuilding or b"").decode(),
            folded=int(folded or 0),
            trimmed=int(trimmed or 0),
            sealed=(sealed or START.encode()).decode(),
        )

    async def heartbeat(self, now: float) -> None:
        """Leave a sign of life of the Learner at `now` (unix s)."""
        await self._redis.hset(self._key("learner"), "alive", str(now))

    async def ledger(self, ids: Sequence[str]) -> dict[str, tuple[Decision, LedgerRow | None]]:
        """Decisions with their ledger rows, those not folded yet without; unknown ids are left out."""
        pipeline = self._redis.pipeline(transaction=False)
        for id_ in ids:
            pipeline.hmget(self._key("decision", id_), ["stream_id", "ledger"])
        rows = {i: row for i, row in zip(ids, await pipeline.execute(), strict=True) if row[0]}
        entries = await self.entries([row[0].decode() for row in rows.values()])
        return {
            id_: (cast(Decision, entry[1]), LedgerRow.model_validate_json(row[1]) if row[1] else None)
            for (id_, row), entry in zip(rows.items(), entries, strict=True)
            if entry
        }

    async def commit(
        self,
        epoch: int,
        version: int,
        position: str,
        time: float,
        arms: Mapping[str, bytes],
        removed: Sequence[str],
        rows: Mapping[str, LedgerRow],
        *,
        router: str,
        signature: str = "",
        rebuilding: str = "",
        folded: int = 0,
        deferred: Sequence[str] = (),
        said: Sequence[Event] = (),
    ) -> int:
        """Write what was folded up to `position` on top of `version`, all or nothing; the new version.

        In the same step the `deferred` stream ids leave the log to wait beside it, and the events `said` are appended.
        The same commit may be sent again. Fenced if `epoch` is not the current one or `version` is not the last one.
        """
        keys = [self._key(name) for name in ("learner", "arms", "versions", "events", "deferred")]
        prefixes = [self._key("arm", ""), self._key("decision", "")]
        names = [to_json(list(named)) for named in (arms, removed, rows)]
        values: list[Argument] = [*arms.values(), *(row.model_dump_json() for row in rows.values())]
        state: list[Argument] = [epoch, version, position, float(time), router]
        texts = [text for event in said for text in (event.type, event.model_dump_json())]
        events = [to_json(list(deferred)), to_json(texts)]
        args = [*state, *prefixes, *names, signature, rebuilding, folded, *events, *values]
        done, *reply = await self._scripts["commit"](keys, args)
        if not done:
            raise Fenced(
                f"commit of epoch {epoch} on version {version} refused: expected epoch {reply[0]}, version {reply[1]}"
            )
        return int(reply[0])

    async def arms(self) -> dict[str, tuple[int, bytes]]:
        """Every arm's last version and blob, one after the other; `changes` reads them as of one moment."""
        versions = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("arms")))
        numbers = {name.decode(): int(version) for name, version in versions.items() if not name.startswith(b"@")}
        return {name: (numbers[name], blob) for name, blob in (await self.arm_blobs(list(numbers))).items()}

    async def changes(self, after: int = 0) -> Changes:
        """Everything that was committed after the version `after`, never half of a commit."""
        keys = [self._key("learner"), self._key("arms")]
        reply = await self._scripts["changes"](keys, [after, self._key("arm", "")])
        version, position, router, signature, rebuilding, folded, names, changed, blobs = reply
        return Changes(
            version=int(version or 0),
            position=(position or START.encode()).decode(),
            router=router.decode(),
            signature=signature.decode(),
            rebuilding=rebuilding.decode(),
            folded=int(folded or 0),
            names=frozenset(name.decode() for name in names),
            blobs={name.decode(): blob for name, blob in zip(changed, blobs, strict=True)},
        )

    async def arm_blobs(self, names: Sequence[str]) -> dict[str, bytes]:
        """The named arms' blobs; removed arms are left out."""
        if not names:
            return {}
        blobs = await self._redis.mget([self._key("arm", name) for name in names])
        return {name: cast(bytes, blob) for name, blob in zip(names, blobs, strict=True) if blob is not None}

    async def states(self, prefix: str) -> dict[str, bytes]:
        """What the Learner keeps besides the arms under names that begin with `prefix`, as last committed."""
        names = [name.decode() for name in cast(list[bytes], await self._redis.hkeys(self._key("arms")))]
        return await self.arm_blobs(sorted(name for name in names if name.startswith(prefix)))

    async def versions(self, after: str, block_ms: int | None = None) -> list[Snapshot]:
        """Versions committed after the stream id `after`, waiting for one as `_read` does.

        About a thousand are kept: whoever sees a gap in the numbers reads all arms again.
        """
        return [_snapshot(*found) for found in await self._read("versions", after, 100, block_ms)]

    async def latest_version_id(self) -> str:
        """The stream id of the last version, the start of the stream if there is none."""
        last = cast(list[Any], await self._redis.xrevrange(self._key("versions"), count=1))
        return cast(str, last[0][0].decode()) if last else START


def _snapshot(stream_id: bytes, fields: Mapping[bytes, bytes]) -> Snapshot:
    arms, removed = json.loads(fields[b"arms"]), json.loads(fields[b"removed"])
    return Snapshot(stream_id.decode(), int(fields[b"version"]), arms, removed, fields[b"position"].decode())
