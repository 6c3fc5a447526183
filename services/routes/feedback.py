"""Outcomes, as clients learn of them."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from fastapi import Body, FastAPI

from cluster.events import Feedback
from cluster.settings import Settings
from services.edge.auth import Caller, needs
from services.edge.errors import ApiError
from services.edge.metrics import Metrics
from services.routing.decision_ids import kept_since
from services.routing.router import Router
from services.schemas import FeedbackBody, FeedbackItem, FeedbackResponse, FeedbackResult


def add(app: FastAPI, router: Router, settings: Settings, metrics: Metrics) -> None:
    gives_feedback = needs(settings, "feedback")

    @app.post("/v1/feedback", tags=["feedback"])
    async def feedback(body: Annotated[FeedbackBody, Body()], caller: Caller = gives_feedback) -> FeedbackResponse:
        """Record outcomes, one or many. When this answers, what it says is on disk; a 503 is to be tried again."""
        items = body if isinstance(body, list) else [body]
        if len(items) > settings.limits.feedback_items:
            expected = f"expected at most {settings.limits.feedback_items}"
            raise ApiError(400, f"body: {len(items)} feedback items, {expected}", code="too_many_items")
        if router.journal.away:
            raise _away("the store is away, nothing of this was recorded: try again")
        async with router.journal.patience():
            if kept := await _unwritten(router, items, time.time() - settings.learner.reward_window_s):
                message = f"decision_id: {kept[0]!r} is not written yet, nothing of this was recorded: try again"
                raise _away(message, "decision_id")
            statuses = await router.store.feedback([_feedback(item, caller) for item in items])
        for status in statuses:
            metrics.feedback.labels(status).inc()
        results = [
            FeedbackResult(decision_id=item.decision_id, episode_id=item.episode_id, status=status)
            for item, status in zip(items, statuses, strict=True)
        ]
        return FeedbackResponse(results=results, counts=dict(Counter(statuses)))


async def _unwritten(router: Router, items: Sequence[FeedbackItem], since: float) -> list[str]:
    """Decisions taken after `since` (unix s) that a Router, this one or another, has kept and not written yet."""
    ids = [item.decision_id for item in items if item.decision_id]
    kept = [id_ for id_ in ids if (kept_since(id_) or 0.0) > since]
    written = await router.store.known(kept) if kept else set()
    return [id_ for id_ in kept if id_ not in written]


def _away(message: str, param: str | None = None) -> ApiError:
    return ApiError(503, message, param=param, code="store_away", retry_after_s=1)


def _feedback(item: FeedbackItem, caller: Caller) -> Feedback:
    return Feedback(
        time=time.time(),
        decision_id=item.decision_id,
        episode_id=caller.episode(item.episode_id) if item.episode_id else None,
        source=item.source or caller.name,
        reward=item.value,
        terminated=item.terminated,
        truncated=item.truncated,
        comment=item.comment,
        key=caller.name,
        tenant=caller.tenant,
    )
