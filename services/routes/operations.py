"""Health and metrics."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from cluster.connection import UNAVAILABLE
from cluster.settings import Settings
from services.edge.auth import unknown_arms
from services.edge.cache_metrics import cache_exposition
from services.edge.errors import ApiError
from services.edge.metrics import Metrics
from services.learning.sealing import ALARM
from services.routing.router import Router

log = logging.getLogger(__name__)
_LEARNER_PATIENCE_S = 30.0
_CACHES_PATIENCE_S = 2.0
_STORE_PATIENCE_S = 2.0


Exposition = Callable[[], Awaitable[bytes]]


def add(app: FastAPI, router: Router, settings: Settings, exposition_of_all: Exposition) -> None:
    @app.get("/healthz", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether the Router runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"])
    async def ready() -> dict[str, Any]:
        """Whether requests can be served durably: the store answers and a Learner folds.

        What is wrong but stops nobody is listed under `alarms`.
        """
        if router.journal.away:
            raise ApiError(
                503, "the store is away: requests are served, not durably", code="store_away", retry_after_s=1
            )
        durability = await router.store.check()
        state = await router.store.learner_state()
        if not state.alive:
            raise ApiError(503, "no Learner has started yet", code="not_ready", retry_after_s=1)
        age = time.time() - state.alive
        if age > _LEARNER_PATIENCE_S:
            raise ApiError(503, f"the Learner was last seen {age:.0f} s ago", code="learner_away", retry_after_s=1)
        alarms = await router.store.alarms() | _guard_alarm(router)
        if unknown := unknown_arms(settings.auth, router.arms.knows):
            alarms["keys"] = unknown
        return {
            "status": "ready",
            "learner_age_s": round(age, 3),
            "store_warnings": durability.warnings,
            "alarms": alarms,
        }

    @app.get("/metrics", tags=["operations"], response_model=None, response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Prometheus metrics of every Router and of the replicas' caches: a scrape sees all, whichever it reaches."""
        text = await exposition_of_all() + await _caches(router)
        return Response(text, media_type="text/plain; version=0.0.4")


async def exposition(router: Router, metrics: Metrics) -> bytes:
    """The metrics of one Router as they stand; without what only the store knows while it is away."""
    away = router.journal.away
    try:
        async with asyncio.timeout(_STORE_PATIENCE_S):
            await _ask_store(router, metrics)
    except UNAVAILABLE:
        away = True
    metrics.store_away.set(away)
    metrics.kept.set(router.journal.size)
    metrics.sent_again(router.dispatcher.resent)
    metrics.version.set(router.decider.snapshots.version)
    posterior = router.decider.snapshots.posterior
    metrics.arms({arm: posterior.statistics(arm) for arm in posterior.arms})
    metrics.guard(router.decider.snapshots.guard)
    return metrics.render()


async def _ask_store(router: Router, metrics: Metrics) -> None:
    behind, alarms = await router.decider.snapshots.behind(), await router.store.alarms()
    metrics.behind_events.set(behind.events)
    metrics.behind_seconds.set(behind.age_s)
    metrics.sealing_failed.set(ALARM in alarms)
    metrics.learner_age.set(time.time() - (await router.store.learner_state()).alive)
    metrics.deferred.set(await router.store.deferred_count())


async def _caches(router: Router) -> bytes:
    """Nothing while the replicas do not answer: a scrape says the rest all the same."""
    try:
        return cache_exposition(await asyncio.wait_for(router.model.caches(), _CACHES_PATIENCE_S))
    except Exception as error:
        log.warning("the replicas do not tell of their caches: %r", error)
        return b""


def _guard_alarm(router: Router) -> dict[str, str]:
    guard = router.decider.snapshots.guard
    if guard is None or guard.alarm is None:
        return {}
    serves = "the supervised policy serves" if router.decider.modes.mode == "fallback" else "it goes on serving"
    return {"guard": f"the policy was found worse than the supervised one at unit {guard.alarm}: {serves}"}
