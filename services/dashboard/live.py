"""What the dashboard shows, as a stream of what has changed. Whoever watches shares one look at the store."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Any, Final

from pydantic import BaseModel

from cluster.connection import UNAVAILABLE
from cluster.store import StoredDecision
from services.edge.errors import ApiError
from services.insight import inspection
from services.insight.timeline import timeline
from services.routing.router import Router

_MOST_VIEWERS: Final = 32
_LASTS_S: Final = 15.0
"""A stream ends and is asked for again: a Router that is to stop waits for no more than that."""

_EVERY_S: Final = 1.5
_CONTEXTS: Final = 64
"""Latest decisions that the beliefs are averaged over: four times fewer than `/v1/bandit` takes, so it costs less."""

_SHOWN: Final = 30
_PATIENCE_S: Final = 1.0
_MOST_ARMS: Final = 100

log = logging.getLogger(__name__)
Parts = dict[str, Any]


class Outcome(BaseModel):
    """A decision in a line: who served whom, and what is known of it."""

    id: str
    time: float
    task: str | None
    arm: str
    supervised: str
    explored: bool
    propensity: float
    status: str  # the ledger's: pending, matured, cancelled, timed_out, censored; "new" before it is folded
    reward: float | None  # what is said of it, the mean over all who say something
    latency_ms: float | None
    screen: bool

    @classmethod
    def of(cls, stored: StoredDecision, *, screen: bool) -> "Outcome":
        """The line of a stored decision."""
        decision, row, completion = stored.decision, stored.ledger, stored.completion
        said = list(row.rewards.values()) if row else []
        return cls(
            **{name: getattr(decision, name) for name in ("id", "time", "task", "arm", "supervised", "explored")},
            propensity=decision.propensity,
            status=row.status if row else "new",
            reward=sum(said) / len(said) if said else None,
            latency_ms=completion.latency_ms if completion else None,
            screen=screen,
        )


class Live:
    """The streams of one Router: at most `_MOST_VIEWERS`, each of which holds no more than what it has sent last."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._viewers = 0
        self._looking = asyncio.Lock()
        self._seen: dict[tuple[int, str | None], tuple[float, Parts]] = {}

    def check_room(self) -> None:
        """Raises ApiError 503 where too many are watching already."""
        if self._viewers >= _MOST_VIEWERS:
            message = f"{self._viewers} are watching, expected fewer than {_MOST_VIEWERS}"
            raise ApiError(503, message, code="too_many_viewers", retry_after_s=5)

    async def parts(self, seconds: int, tenant: str | None) -> Parts:
        """Everything that is shown, with buckets of `seconds`; looked up at most every `_EVERY_S`."""
        async with self._looking:
            key, now = (seconds, tenant), time.monotonic()
            at, parts = self._seen.get(key, (-_EVERY_S, {}))
            if now - at >= _EVERY_S:
                parts = await self._look(seconds, tenant)
                self._seen = {other: seen for other, seen in self._seen.items() if now - seen[0] < _LASTS_S}
                self._seen[key] = now, parts
            return parts

    async def events(self, seconds: int, tenant: str | None) -> AsyncIterator[bytes]:
        """Server-sent events: first every part, then those that have changed, until `_LASTS_S` are over."""
        self._viewers += 1
        try:
            async with contextlib.aclosing(self._changes(seconds, tenant)) as changes:
                async for changed in changes:
                    yield _event(changed)
        except UNAVAILABLE:
            yield b'event: away\ndata: "the store is away"\n\n'
        finally:
            self._viewers -= 1

    async def _changes(self, seconds: int, tenant: str | None) -> AsyncGenerator[dict[str, str], None]:
        """The parts, as JSON, that differ from what came before."""
        end, sent = time.monotonic() + _LASTS_S, dict[str, str]()
        while time.monotonic() < end:
            parts = await self.parts(seconds, tenant)
            texts = {name: json.dumps(part, ensure_ascii=False) for name, part in parts.items()}
            yield {name: text for name, text in texts.items() if sent.get(name) != text}
            sent = texts
            await asyncio.sleep(_EVERY_S)

    async def _look(self, seconds: int, tenant: str | None) -> Parts:
        router = self._router
        recent = await router.store.decisions(_CONTEXTS, tenant=tenant)
        state = (await inspection.bandit(router, recent)).model_dump()
        arms = sorted(state.pop("arms"), key=lambda arm: -arm["pulls"])
        buckets = [bucket.model_dump() for bucket in await timeline(router, seconds, tenant)]
        about = {"model": router.base, "seconds": seconds, "keeps_screens": router.screens.most, "arms": len(arms)}
        return {
            "about": about,
            "state": {**state, "now": time.time(), "alarms": await router.store.alarms()},
            "arms": arms[:_MOST_ARMS],
            "decisions": await self._lines(recent[:_SHOWN]),
            "caches": await self._caches(),
            **{f"bucket {bucket['start']:.0f}": bucket for bucket in buckets},
        }

    async def _lines(self, recent: list[StoredDecision]) -> list[dict[str, Any]]:
        ids = [stored.decision.id for stored in recent]
        kept = await self._router.store.with_screen(ids) if self._router.screens.most else set()
        return [Outcome.of(stored, screen=stored.decision.id in kept).model_dump() for stored in recent]

    async def _caches(self) -> list[dict[str, Any]] | None:
        """Every replica's cache; None where one does not answer in time."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return [asdict(view) for view in await self._router.model.caches()]
        except Exception as error:  # whatever is wrong with a replica, the rest is shown
            log.info("the caches are not shown: %s", error)
            return None


def _event(texts: dict[str, str]) -> bytes:
    """One event of a JSON object whose members are written already."""
    members = ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items())
    return f"data: {{{members}}}\n\n".encode()
