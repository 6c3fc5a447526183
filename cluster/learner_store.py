"""What the Learner reads and writes, and what Routers take over from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from pydantic_core import to_json

from cluster.connection import START, Argument, Connection, stream_order
from cluster.events import Decision, Record


class Fenced(RuntimeError):
    """A commit was refused: another Learner has taken over, or the version moved. Nothing was written."""


class LedgerRow(Record):
    """What the Learner has made of one decision: when the arm took it (its own count), and what was folded."""

    tick: int
    arm: str
    status: Literal["pending", "matured", "cancelled", "timed_out", "censored"]
    weight: float
    rewards: dict[str, float]


class LearnerState(NamedTuple):
    """How far the Learner is: `position` is the last folded stream id, `time` (unix s) the last folded event's.

    `router` is the fingerprint of the context map that the evidence was folded with, `alive` (unix s) the Learner's
    last sign of life.
    """

    epoch: int
    version: int
    position: str
    time: float
    router: str
    alive: float


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
        epoch, version, position, time, router, alive = stored
        position, router = (position or START.encode()).decode(), (router or b"").decode()
        return LearnerState(int(epoch or 0), int(version or 0), position, float(time or 0), router, float(alive or 0))

    async def heartbeat(self, now: float) -> None:
        """Leave a sign of life of the Learner at `now` (unix s)."""
        await self._redis.hset(self._key("learner"), "alive", str(now))

    async def backlog_ms(self) -> int:
        """Milliseconds between the last event folded and the last event there is: 0 when nothing waits."""
        last = cast(list[Any], await self._redis.xrevrange(self._key("events"), count=1))
        folded = stream_order((await self.learner_state()).position)[0]
        return max(0, stream_order(last[0][0].decode())[0] - folded) if last else 0

    async def ledger(self, ids: Sequence[str]) -> dict[str, tuple[Decision, LedgerRow | None]]:
        """Decisions with their ledger rows, those not folded yet without; unknown ids are left out."""
        pipeline = self._redis.pipeline(transaction=False)
        for id_ in ids:
            pipeline.hmget(self._key("decision", id_), ["stream_id", "ledger"])
        rows = {i: row for i, row in zip(ids, await pipeline.execute(), strict=True) if row[0]}
        entries = await self._entries([row[0].decode() for row in rows.values()])
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
    ) -> int:
        """Write what was folded up to `position` on top of `version`, all or nothing; the new version.

        The same commit may be sent again. Fenced if `epoch` is not the current one or `version` is not the last one.
        """
        keys = [self._key("learner"), self._key("arms"), self._key("versions")]
        prefixes = [self._key("arm", ""), self._key("decision", "")]
        names = [to_json(list(named)) for named in (arms, removed, rows)]
        values: list[Argument] = [*arms.values(), *(row.model_dump_json() for row in rows.values())]
        args: list[Argument] = [epoch, version, position, float(time), router, *prefixes, *names, *values]
        done, *reply = await self._scripts["commit"](keys, args)
        if not done:
            raise Fenced(
                f"commit of epoch {epoch} on version {version} refused: expected epoch {reply[0]}, version {reply[1]}"
            )
        return int(reply[0])

    async def arms(self) -> dict[str, tuple[int, bytes]]:
        """Every arm's last version and blob.

        Take `latest_version_id()` first and follow `versions()` from there: a commit in between is then seen again.
        """
        versions = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("arms")))
        numbers = {name.decode(): int(version) for name, version in versions.items()}
        return {name: (numbers[name], blob) for name, blob in (await self.arm_blobs(list(numbers))).items()}

    async def arm_blobs(self, names: Sequence[str]) -> dict[str, bytes]:
        """The named arms' blobs; removed arms are left out."""
        if not names:
            return {}
        blobs = await self._redis.mget([self._key("arm", name) for name in names])
        return {name: cast(bytes, blob) for name, blob in zip(names, blobs, strict=True) if blob is not None}

    async def versions(self, after: str, block_ms: int | None = None) -> list[Snapshot]:
        """Versions committed after the stream id `after`, waiting for one as `_read` does.

        About a thousand are kept: whoever sees a gap in the numbers reads all arms again.
        """
        return [_snapshot(*found) for found in await self._read("versions", after, 100, block_ms)]

    async def latest_version_id(self) -> str:
        """The stream id of the last version, the start of the stream if there is none."""
        last = cast(list[Any], await self._redis.xrevrange(self._key("versions"), count=1))
        return cast(str, last[0][0].decode()) if last else START

    async def trim(self, now: float) -> int:
        """Drop events that are out of the retention at `now` (unix s); how many.

        Retention counts back from the Learner's position where that is earlier: what it has yet to fold may name
        decisions as old as the retention allowed when it was posted.
        """
        position_ms, _ = stream_order((await self.learner_state()).position)
        floor_ms = min(int(now * 1000), position_ms) - int(self._retention_s * 1000)
        if floor_ms <= 0:
            return 0
        return await self._redis.xtrim(self._key("events"), minid=str(floor_ms), approximate=False)


def _snapshot(stream_id: bytes, fields: Mapping[bytes, bytes]) -> Snapshot:
    arms, removed = json.loads(fields[b"arms"]), json.loads(fields[b"removed"])
    return Snapshot(stream_id.decode(), int(fields[b"version"]), arms, removed, fields[b"position"].decode())
