"""The HTTP edge: routes, keys, wire errors. What happens is decided elsewhere."""

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from fastapi import Body, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import TypeAdapter, ValidationError

from cluster.events import Feedback
from cluster.settings import Scope, Settings
from services import inspection
from services.edge import sse
from services.edge.auth import Caller, Gatekeeper
from services.edge.chat import ChatReader
from services.edge.errors import ApiError, answer_errors
from services.edge.metrics import Metrics
from services.edge.middleware import BodyLimit, measure
from services.edge.model_names import ModelNames
from services.engine.base import Sampling
from services.router import Call, Router, arm_scores
from services.schemas import (
    ChatRequest,
    Explanation,
    FeedbackBody,
    FeedbackItem,
    FeedbackResponse,
    FeedbackResult,
    Identifier,
    ModelCard,
    ModelList,
)

T = TypeVar("T")
_LEARNER_PATIENCE_S = 30.0
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


def build_gateway(router: Router, settings: Settings) -> FastAPI:
    """The ASGI application over a Router, which lives as long as the application does."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with router:
            yield

    summary = "Routes computer-use requests to LoRA adapters and learns online."
    app = FastAPI(title="Pointsman", summary=summary, lifespan=lifespan)
    metrics = Metrics()
    app.add_middleware(BodyLimit, limit=settings.limits.body_bytes)
    app.middleware("http")(measure(metrics))
    answer_errors(app)
    _add_inference(app, router, settings, metrics)
    _add_feedback(app, router, settings, metrics)
    _add_inspection(app, router, settings)
    _add_operations(app, router, metrics)
    return app


def _needs(settings: Settings, scope: Scope) -> Any:
    """A dependency: the caller, who has the scope."""
    gatekeeper = Gatekeeper(settings.auth)

    def caller(request: Request) -> Caller:
        return gatekeeper.caller(request.headers.get("authorization"), scope)

    return Depends(caller)


def _add_inference(app: FastAPI, router: Router, settings: Settings, metrics: Metrics) -> None:
    reader = ChatReader(settings.limits)
    names = ModelNames(router.base, router.registry)
    infers = _needs(settings, "infer")

    async def call(request: Request, chat: ChatRequest, caller: Caller) -> Call:
        request_key, is_retry = await _request_key(request, caller)
        return Call(
            prompt=await reader.read(chat),
            eligible=names.eligible(chat.model, chat.routing.arms),
            sampling=_sampling(chat, settings.model.max_tokens),
            episode=_header_id(request, "x-episode-id") or chat.metadata.episode_id,
            task=chat.metadata.task,
            tenant=chat.metadata.tenant,
            key=caller.name,
            request_key=request_key,
            is_retry=is_retry,
        )

    @app.post("/v1/chat/completions", tags=["inference"], response_model=None)
    async def chat_completions(request: Request, chat: ChatRequest, caller: Caller = infers) -> Response:
        """Route and answer a chat (OpenAI chat completions, JSON or SSE)."""
        routed = await router.route(await call(request, chat, caller))
        deltas = await router.answer(routed)
        if routed.fresh:
            metrics.decisions.labels(routed.decision.arm, str(routed.decision.explored).lower()).inc()
        if chat.stream:
            usage = chat.stream_options is not None and chat.stream_options.include_usage
            return sse.AnswerStream(routed, router.base, deltas, usage=usage)
        pieces = [delta async for delta in deltas]
        text = "".join(delta.text for delta in pieces)
        return JSONResponse(sse.completion(routed, router.base, text, pieces[-1]), headers=routed.info.headers())

    @app.post("/v1/route", tags=["inference"])
    async def route(request: Request, chat: ChatRequest, caller: Caller = infers) -> Explanation:
        """Explain what would be decided for a chat, without generating and without logging."""
        asked = await call(request, chat, caller)
        choice, context, encoded = await router.consider(asked, seed=asked.episode or "route")
        return Explanation(
            arm=choice.arm,
            propensity=choice.propensity,
            explored=choice.explored,
            supervised=choice.supervised,
            policy=router.policy.name,
            policy_version=router.snapshots.version,
            resident=list(encoded.resident),
            arms=arm_scores(choice, context, len(choice.arms)),
        )

    @app.get("/v1/models", tags=["inference"], dependencies=[infers])
    async def models() -> ModelList:
        """What `model` may be."""
        return ModelList(data=[ModelCard(id=name) for name in names.all])


def _add_feedback(app: FastAPI, router: Router, settings: Settings, metrics: Metrics) -> None:
    gives_feedback = _needs(settings, "feedback")

    @app.post("/v1/feedback", tags=["feedback"])
    async def feedback(body: Annotated[FeedbackBody, Body()], caller: Caller = gives_feedback) -> FeedbackResponse:
        """Record outcomes, one or many. When this answers, what it says is on disk."""
        items = body if isinstance(body, list) else [body]
        if len(items) > settings.limits.feedback_items:
            expected = f"expected at most {settings.limits.feedback_items}"
            raise ApiError(400, f"body: {len(items)} feedback items, {expected}", code="too_many_items")
        statuses = await router.store.feedback([_feedback(item, caller) for item in items])
        for status in statuses:
            metrics.feedback.labels(status).inc()
        results = [
            FeedbackResult(decision_id=item.decision_id, episode_id=item.episode_id, status=status)
            for item, status in zip(items, statuses, strict=True)
        ]
        return FeedbackResponse(results=results, counts=dict(Counter(statuses)))


def _add_inspection(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects = _needs(settings, "admin")

    @app.get("/v1/bandit", tags=["inspection"], dependencies=[inspects])
    async def bandit() -> inspection.BanditView:
        """What is known of every arm, and how fresh it is."""
        return await inspection.bandit(router)

    @app.get("/v1/bandit/arms/{arm}", tags=["inspection"], dependencies=[inspects])
    async def arm_state(arm: str) -> inspection.ArmView:
        """What is known of one arm."""
        views = {view.arm: view for view in (await inspection.bandit(router)).arms}
        return _found(views.get(arm), "arm", arm)

    @app.get("/v1/decisions", tags=["inspection"], dependencies=[inspects])
    async def decisions(
        limit: Annotated[int, Query(ge=1, le=1000)] = 50, before: str | None = None
    ) -> list[inspection.DecisionView]:
        """The latest decisions, newest first; `before` is the id of a decision to continue from."""
        edge = _found(await router.store.decision(before), "before", before).stream_id if before else None
        return [inspection.DecisionView.of(stored) for stored in await router.store.decisions(limit, edge)]

    @app.get("/v1/decisions/{decision_id}", tags=["inspection"], dependencies=[inspects])
    async def decision(decision_id: str) -> inspection.DecisionView:
        """One decision and what became of it."""
        stored = await router.store.decision(decision_id)
        return inspection.DecisionView.of(_found(stored, "decision_id", decision_id))

    @app.get("/v1/episodes/{episode_id}", tags=["inspection"], dependencies=[inspects])
    async def episode(episode_id: str) -> list[inspection.DecisionView]:
        """The decisions of an episode, in order."""
        members = _found(await router.store.episode(episode_id), "episode_id", episode_id)
        stored = [await router.store.decision(member) for member in members]
        return [inspection.DecisionView.of(one) for one in stored if one]

    @app.get("/v1/adapters", tags=["inspection"], dependencies=[inspects])
    async def adapters() -> list[inspection.AdapterView]:
        """The adapters that can serve."""
        return [inspection.AdapterView.of(adapter) for adapter in router.registry]


def _add_operations(app: FastAPI, router: Router, metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/healthz", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether the Router runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"])
    async def ready() -> dict[str, Any]:
        """Whether requests can be served durably: the store answers and a Learner folds."""
        durability = await router.store.check()
        state = await router.store.learner_state()
        if not state.alive:
            raise ApiError(503, "no Learner has started yet", code="not_ready", retry_after_s=1)
        age = time.time() - state.alive
        if age > _LEARNER_PATIENCE_S:
            raise ApiError(503, f"the Learner was last seen {age:.0f} s ago", code="learner_away", retry_after_s=1)
        return {"status": "ready", "learner_age_s": round(age, 3), "store_warnings": durability.warnings}

    @app.get("/metrics", tags=["operations"], response_model=None)
    async def prometheus() -> Response:
        """Prometheus metrics of this Router."""
        metrics.version.set(router.snapshots.version)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")


def _header_id(request: Request, name: str) -> str | None:
    """An identifier in a header; none if it is absent or empty."""
    value = request.headers.get(name, "")
    try:
        return _IDENTIFIER.validate_python(value) if value else None
    except ValidationError:
        expected = "expected at most 128 printable ASCII characters without spaces"
        raise ApiError(400, f"{name}: {value[:80]!r}, {expected}", param=name, code="invalid_value") from None


async def _request_key(request: Request, caller: Caller) -> tuple[str | None, bool]:
    """What identifies a request across its retries, and whether this is one.

    A client's own request id always names the same request. The OpenAI SDK sends none, but counts its retries: those
    with the same key and body within the retry window are the same request.
    """
    if own := _header_id(request, "x-client-request-id"):
        return f"{caller.name}:id:{own}", True
    retries = request.headers.get("x-stainless-retry-count")
    if retries is None:
        return None, False
    digest = hashlib.blake2b(await request.body(), digest_size=16).hexdigest()
    return f"{caller.name}:body:{digest}", retries != "0"


def _sampling(chat: ChatRequest, most: int) -> Sampling:
    asked = chat.max_completion_tokens or chat.max_tokens or most
    if asked > most:
        raise ApiError(400, f"max_tokens: {asked}, expected at most {most}", param="max_tokens", code="invalid_value")
    return Sampling(asked, chat.temperature, chat.top_p, chat.seed, chat.stops)


def _feedback(item: FeedbackItem, caller: Caller) -> Feedback:
    return Feedback(
        time=time.time(),
        decision_id=item.decision_id,
        episode_id=item.episode_id,
        source=item.source or caller.name,
        reward=item.value,
        terminated=item.terminated,
        truncated=item.truncated,
        comment=item.comment,
        key=caller.name,
    )


def _found(value: T | None, field: str, name: str | None) -> T:
    if value is None:
        raise ApiError(404, f"{field}: {name!r} is unknown", param=field, code="not_found")
    return value
