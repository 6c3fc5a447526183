"""Chat completions on the wire: one JSON body, or server-sent events."""

import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.edge.errors import ApiError
from services.engine.base import Delta
from services.router import Routed

log = logging.getLogger(__name__)


def served_model(routed: Routed, base: str) -> str:
    """The name of what served: the base, or the base with its adapters."""
    return ":".join([base, *routed.decision.gates])


def completion(routed: Routed, base: str, text: str, last: Delta) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    message = {"role": "assistant", "content": text}
    return {
        **_envelope(routed, base, "chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish_reason}],
        "usage": _usage(last),
        "routing": routed.info.model_dump(),
    }


class AnswerStream(StreamingResponse):
    """An answer as server-sent events; however the response ends, the answer ends with it."""

    def __init__(self, routed: Routed, base: str, deltas: AsyncGenerator[Delta, None], *, usage: bool) -> None:
        body = events(routed, base, deltas, usage=usage)
        super().__init__(body, media_type="text/event-stream", headers=routed.info.headers())
        self._deltas = deltas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._deltas):
            await super().__call__(scope, receive, send)


async def events(
    routed: Routed, base: str, deltas: AsyncGenerator[Delta, None], *, usage: bool
) -> AsyncIterator[bytes]:
    """The stream of an answer: role, pieces, finish reason with the routing object, usage if asked, [DONE].

    What fails after the headers are out becomes an error event.
    """
    envelope = _envelope(routed, base, "chat.completion.chunk")

    def chunk(delta: dict[str, str], finish: str | None = None, **extra: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**envelope, "choices": [choice], **extra})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for delta in deltas:
            if delta.text:
                yield chunk({"content": delta.text})
            if delta.finish_reason:
                yield chunk({}, delta.finish_reason, routing=routed.info.model_dump())
                if usage:
                    yield _event({**envelope, "choices": [], "usage": _usage(delta)})
    except Exception:
        log.exception("the answer of decision %s failed", routed.decision.id)
        message = "the answer could not be finished, the log of the service says why"
        yield _event(ApiError(500, message, code="generation_failed").body)
        return
    yield b"data: [DONE]\n\n"


def _envelope(routed: Routed, base: str, kind: str) -> dict[str, Any]:
    model = served_model(routed, base)
    return {"id": routed.decision.id, "object": kind, "created": int(time.time()), "model": model}


def _usage(last: Delta) -> dict[str, int]:
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "total_tokens": last.prompt_tokens + last.completion_tokens,
    }


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()
