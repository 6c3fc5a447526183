"""The connection to Redis that every part of the store shares: keys, scripts, and what the server promises."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Self, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from cluster.archive import Archive, Damaged
from cluster.events import Event, decode
from cluster.stream import START as START
from cluster.stream import Raw
from cluster.stream import stream_order as stream_order

Entry = tuple[str, Event]
Argument = str | bytes | float
T = TypeVar("T")

LOST = (ConnectionError, TimeoutError)
UNAVAILABLE = (*LOST, OSError)
"""What the store raises while its server is away; `LOST` without what a disk may raise too."""


class Refused(ConnectionError):
    """The server answers and does not do what it is asked now: it may not write, has no room, or is busy."""


_FLOOR = (6, 2)
_MOST_CONNECTIONS = 64
_SOCKET_TIMEOUT_S = 5
_LONGEST_BLOCK_MS = 2000
_REFUSAL = re.compile(r"(?:^|-)(?:READONLY|MISCONF|OOM|NOREPLICAS|MASTERDOWN|BUSY|UNBLOCKED) ")  # or out of a script
_SCRIPTS = (
    *("decide", "feedback", "outcome", "timeouts", "arm", "catalogue"),
    *("commit", "changes", "release", "trim"),
    *("forget", "unsay", "erase", "forgotten"),
    "screen",
)


@dataclass(frozen=True)
class Durability:
    """What the server does with acknowledged writes; `warnings` says in words what may lose a reward."""

    version: str
    appendonly: bool
    appendfsync: str
    maxmemory_policy: str
    warnings: list[str]


class Connection:
    """One Redis server (not a Redis Cluster) and the keys of one deployment under `prefix`.

    `reward_window_s` is how long a decision waits for its reward, `retention_s` how long feedback on it is taken.
    Keys of a decision live twice as long: a Learner that was away has as long again to fold it. Events that are no
    longer in Redis are read from `archive`. Open it in the event loop that uses it.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "pointsman:",
        *,
        reward_window_s: float,
        retention_s: float,
        archive: Archive | None = None,
    ) -> None:
        if not 0 < reward_window_s <= retention_s:
            raise ValueError(f"reward_window_s is {reward_window_s}: expected 0 < it <= retention_s ({retention_s})")
        self.archive = archive
        self._prefix = prefix
        self._reward_window_s = reward_window_s
        self._retention_s = retention_s
        self._key_ttl_s = int(2 * retention_s) + 1
        self._redis: Redis = Redis.from_pool(_pool(url))
        self._scripts: dict[str, AsyncScript] = {name: self._script(name) for name in _SCRIPTS}

    async def open(self) -> Self:
        """Reach the server; redis.ConnectionError if nobody answers within a few seconds."""
        await self._redis.ping()
        return self

    async def close(self) -> None:
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def check(self) -> Durability:
        """Ask the server what it promises."""
        info = await self._redis.info()
        appendonly, policy = bool(info.get("aof_enabled")), str(info.get("maxmemory_policy", "unknown"))
        fsync = await self._appendfsync()
        warnings = _warnings(str(info["redis_version"]), appendonly, fsync, policy)
        return Durability(str(info["redis_version"]), appendonly, fsync, policy, warnings)

    async def _appendfsync(self) -> str:
        try:
            return str((await self._redis.config_get("appendfsync"))["appendfsync"])
        except (ResponseError, KeyError):  # managed servers forbid CONFIG
            return "unknown"

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return self._prefix

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def _script(self, name: str) -> AsyncScript:
        return self._redis.register_script(files("cluster").joinpath("lua", f"{name}.lua").read_text())

    async def _read(self, stream: str, after: str, count: int, block_ms: int | None) -> list[Any]:
        """Raw entries after `after`; waits below the client's socket timeout, so that a dead server is noticed."""
        block = min(block_ms or 0, _LONGEST_BLOCK_MS) or None  # BLOCK 0 would wait forever
        reply = cast(list[Any], await self._redis.xread({self._key(stream): after}, count=count, block=block))
        return list(reply[0][1]) if reply else []

    async def entries(self, stream_ids: Sequence[str]) -> list[Entry | None]:
        """The events at the given stream ids, in their order, sealed or not; None where one is gone."""
        pipeline = self._redis.pipeline(transaction=False)
        for stream_id in stream_ids:
            pipeline.xrange(self._key("events"), stream_id, stream_id)
        replies = await pipeline.execute()
        hot = {stream_id: reply[0] for stream_id, reply in zip(stream_ids, replies, strict=True) if reply}
        sealed = await self._sealed([stream_id for stream_id in stream_ids if stream_id not in hot])
        found = {stream_id: entry(*raw) for stream_id, raw in hot.items()}
        found |= {stream_id: (stream_id, decode(fields)) for stream_id, (_, fields) in sealed.items()}
        return [found.get(stream_id) for stream_id in stream_ids]

    async def _sealed(self, stream_ids: Sequence[str]) -> dict[str, Raw]:
        if not stream_ids or self.archive is None:
            return {}
        found = await asyncio.to_thread(self.archive.find, stream_ids)
        if len(found) < len(stream_ids):
            await self._check_end([each for each in stream_ids if each not in found])
        return found

    async def _check_end(self, missing: Sequence[str]) -> None:
        """Raise Damaged if one of the `missing` was sealed into a segment that is not there."""
        sealed = cast(bytes | None, await self._redis.hget(self._key("learner"), "sealed"))
        if sealed is None:
            return
        archive, end = self.archive, stream_order(sealed.decode())
        last = await asyncio.to_thread(lambda: archive.last) if archive else START
        if any(stream_order(last) < stream_order(each) <= end for each in missing):
            where = archive.directory if archive else "no archive"
            raise Damaged(f"{where} ends at {last}, expected the sealed events up to {sealed.decode()}")


def entry(stream_id: bytes, fields: Any) -> Entry:
    """A stream entry as Redis replies it."""
    return stream_id.decode(), decode(fields)


class _Retry(Retry):
    """Tries again where the connection is lost. A server that hangs has been waited for, one that refuses is left."""

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        try:
            return await super().call_with_retry(do, fail, is_retryable, with_failure_count)
        except ResponseError as error:
            said = f"{error.status_code or ''} {error}".lstrip()
            if not _REFUSAL.search(said):
                raise
            # It disconnects: behind the name there may be another server by now, which takes over.
            await (fail(error, 1) if with_failure_count else fail(error))
            raise Refused(said) from error


def _pool(url: str) -> BlockingConnectionPool:
    """Connections that retry for about 4 s, and a burst that waits for a free one; from_url does neither by itself.

    A server that hangs is away after one socket timeout.
    """
    retry = _Retry(ExponentialWithJitterBackoff(cap=1, base=0.01), retries=10, supported_errors=(ConnectionError,))
    limits = {"max_connections": _MOST_CONNECTIONS, "timeout": 30, "socket_timeout": _SOCKET_TIMEOUT_S}
    return BlockingConnectionPool.from_url(url, protocol=2, retry=retry, **limits)


def _warnings(version: str, appendonly: bool, appendfsync: str, maxmemory_policy: str) -> list[str]:
    warnings = []
    if tuple(int(part) for part in version.split(".")[:2]) < _FLOOR:
        warnings.append(f"redis_version is {version}: expected 6.2 or later")
    if not appendonly:
        warnings.append("appendonly is no: a restart loses what came after the last snapshot; set appendonly yes")
    elif appendfsync != "always":
        warnings.append(f"appendfsync is {appendfsync}: a power cut may lose acknowledged rewards; set it to always")
    if maxmemory_policy != "noeviction":
        warnings.append(f"maxmemory-policy is {maxmemory_policy}: keys may be evicted; set it to noeviction")
    return warnings
