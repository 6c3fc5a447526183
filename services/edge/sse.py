"""Chat completions on the wire: one JSON body, or server-sent events."""

import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.edge.errors import ApiError, known_error
from services.engine.base import Delta, Sampling, TokenLogprob
from services.routing.call import Routed

log = logging.getLogger(__name__)
_LEAST = -9999.0  # JSON has no infinity; OpenAI's value for what is as good as impossible


def served_model(routed: Routed, base: str) -> str:
    """The name of what served: the base, or the base with its adapters."""
    return ":".join([base, *routed.decision.gates])


def completion(routed: Routed, base: str, deltas: Sequence[Delta]) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    sampling = routed.call.sampling
    return {
        **_envelope(routed, base, "chat.completion"),
        "choices": [
            _choice(number, [delta for delta in deltas if delta.choice == number], sampling)
            for number in range(sampling.n)
        ],
        "usage": _usage([delta for delta in deltas if delta.finish_reason]),
        "routing": routed.info.model_dump(),
    }


def _choice(number: int, deltas: Sequence[Delta], sampling: Sampling) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(delta.text for delta in deltas)}
    told = [each for delta in deltas for each in delta.logprobs]
    logprobs = _logprobs(told, sampling)
    return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": deltas[-1].finish_reason}


def _logprobs(told: Sequence[TokenLogprob], sampling: Sampling) -> dict[str, Any] | None:
    if sampling.logprobs is None:
        return None
    content = [
        _token(each.token, each.logprob) | {"top_logprobs": [_token(*other) for other in each.top]} for each in told
    ]
    return {"content": content, "refusal": None}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "bytes": list(token), "logprob": max(logprob, _LEAST)}


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
    """The stream of an answer, its choices side by side: for each its role, pieces and finish reason.

    With the last of these comes the routing object; then usage if asked, and [DONE]. What fails after the headers are
    out becomes an error event.
    """
    envelope, sampling = _envelope(routed, base, "chat.completion.chunk"), routed.call.sampling

    def chunk(number: int, delta: dict[str, str], told: Any = None, finish: str | None = None, **extra: Any) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": told, "finish_reason": finish}
        return _event({**envelope, "choices": [choice], **extra})

    for number in range(sampling.n):
        yield chunk(number, {"role": "assistant", "content": ""})
    ended: list[Delta] = []
    try:
        async for delta in deltas:
            if delta.text or delta.logprobs:
                told = _logprobs(delta.logprobs, sampling)
                yield chunk(delta.choice, {"content": delta.text}, told)
            if delta.finish_reason:
                ended.append(delta)
                extra = {"routing": routed.info.model_dump()} if len(ended) == sampling.n else {}
                yield chunk(delta.choice, {}, finish=delta.finish_reason, **extra)
        if usage:
            yield _event({**envelope, "choices": [], "usage": _usage(ended)})
    except Exception as error:
        log.exception("the answer of decision %s failed", routed.decision.id)
        message = "the answer could not be finished, the log of the service says why"
        yield _event((known_error(error) or ApiError(500, message, code="generation_failed")).body)
        return
    yield b"data: [DONE]\n\n"


def _envelope(routed: Routed, base: str, kind: str) -> dict[str, Any]:
    model = served_model(routed, base)
    return {"id": routed.decision.id, "object": kind, "created": int(time.time()), "model": model}


def _usage(ended: Sequence[Delta]) -> dict[str, int]:
    """The prompt counts once, every choice's answer counts."""
    prompt, answers = ended[0].prompt_tokens, sum(delta.completion_tokens for delta in ended)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()
