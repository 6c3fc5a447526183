"""Chats: answered, or only explained."""

import hashlib
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError

from cluster.events import CUSTOM
from cluster.settings import Settings
from services.edge import sse
from services.edge.answers import ChatCompletion
from services.edge.auth import Caller, needs
from services.edge.chat import ChatReader
from services.edge.errors import ApiError, invalid
from services.edge.metrics import Metrics
from services.edge.model_names import ModelNames
from services.edge.sampling import sampling_of
from services.insight.explanation import explanation_of
from services.routing.call import Call
from services.routing.router import Router
from services.schemas import ChatRequest, Explanation, Identifier, ModelCard, ModelList

_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
_HEADERS = {
    "x-episode-id": "The episode that the request is a step of; stands above `metadata.episode_id`.",
    "x-client-request-id": "The client's own name of the request: the same one again is the same decision.",
}
_DESCRIBED = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "description": what, "schema": _IDENTIFIER.json_schema()}
        for name, what in _HEADERS.items()
    ]
}


def add(app: FastAPI, router: Router, settings: Settings, metrics: Metrics) -> None:
    reader = ChatReader(settings.limits)
    names = ModelNames(router.base, router.arms)
    infers = needs(settings, "infer")

    def routing(chat: ChatRequest, caller: Caller) -> dict[str, Any]:
        """Which arms may serve, from which mixtures may draw, or the client's own gates."""
        asked, most = chat.routing, settings.model.max_mixture
        if asked.gates is None:
            allowed = caller.allowed(names.eligible(chat.model, asked.arms), router.arms.current)
            eligible = names.there(chat.model, allowed)
            return {"eligible": eligible, "members": caller.among(names.members(asked.arms), router.arms.current)}
        if len(asked.gates) > most:
            raise invalid("routing.gates", f"{len(asked.gates)} adapters, expected at most {most}")
        gates, room = names.gates(chat.model, asked.gates), router.arms.registry.room
        if (pages := router.arms.registry.pages(gates)) > room:
            expected = f"expected at most {room} (cache.device_rows, model.lora_pages)"
            raise invalid("routing.gates", f"the adapters take {pages} pages, {expected}")
        for arm in asked.gates:
            caller.allowed((arm,), router.arms.current)
        return {"eligible": (CUSTOM,), "gates": gates}

    async def call(request: Request, chat: ChatRequest, caller: Caller) -> Call:
        request_key, is_retry = await _request_key(request, caller)
        episode = _header_id(request, "x-episode-id") or chat.metadata.episode_id
        return Call(
            prompt=await reader.read(chat),
            **routing(chat, caller),
            sampling=await sampling_of(chat, settings),
            episode=caller.episode(episode) if episode else None,
            task=chat.metadata.task,
            tenant=caller.named_tenant(chat.metadata.tenant),
            key=caller.name,
            request_key=request_key,
            is_retry=is_retry,
        )

    @app.post(
        "/v1/chat/completions",
        tags=["inference"],
        response_model=None,
        responses={200: {"model": ChatCompletion}},
        openapi_extra=_DESCRIBED,
    )
    async def chat_completions(request: Request, chat: ChatRequest, caller: Caller = infers) -> Response:
        """Route and answer a chat (OpenAI chat completions, JSON or SSE)."""
        routed, deltas = await router.serve(await call(request, chat, caller))
        if routed.fresh:
            metrics.decisions.labels(routed.decision.arm, str(routed.decision.explored).lower()).inc()
        if chat.stream:
            usage = chat.stream_options is not None and chat.stream_options.include_usage
            return sse.AnswerStream(routed, router.base, deltas, usage=usage)
        pieces = [delta async for delta in deltas]
        return JSONResponse(sse.completion(routed, router.base, pieces), headers=routed.info.headers())

    @app.post("/v1/route", tags=["inference"], openapi_extra=_DESCRIBED)
    async def route(request: Request, chat: ChatRequest, caller: Caller = infers) -> Explanation:
        """Explain what would be decided for a chat, without generating and without logging."""
        asked = await call(request, chat, caller)
        considered = await router.consider(asked)
        return explanation_of(
            considered.choice,
            considered.context,
            gates=considered.offer.gates,
            policy=considered.policy,
            version=considered.version,
            resident=considered.resident,
        )

    @app.get("/v1/models", tags=["inference"])
    async def models(caller: Caller = infers) -> ModelList:
        """What `model` may be."""
        own = set(map(router.arms.current, caller.arms))
        return ModelList(data=[ModelCard(id=name) for name in names.all if not own or names.fits(name, own)])


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
