"""From a chat request to how its answer is drawn, within limits."""

import asyncio

from cluster.settings import Settings
from services.edge.errors import invalid
from services.engine.base import Sampling
from services.engine.grammar import schema_text
from services.schemas import ChatRequest


async def sampling_of(chat: ChatRequest, settings: Settings) -> Sampling:
    """How the answer is drawn. Raises ApiError 400 that names the field for what is too much or cannot be done."""
    most, choices = settings.model.max_tokens, settings.limits.choices
    tokens = chat.max_completion_tokens or chat.max_tokens or most
    if tokens > most:
        field = "max_completion_tokens" if chat.max_completion_tokens else "max_tokens"
        raise invalid(field, f"{tokens}, expected at most {most}")
    if chat.n > choices:
        raise invalid("n", f"{chat.n}, expected at most {choices}")
    return Sampling(
        max_tokens=tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        seed=chat.seed,
        stop=chat.stops,
        frequency_penalty=chat.frequency_penalty,
        presence_penalty=chat.presence_penalty,
        n=chat.n,
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        json_schema=await _json_schema(chat),
    )


async def _json_schema(chat: ChatRequest) -> str | None:
    schema = chat.response_format.schema_of_answers if chat.response_format else None
    if schema is None:
        return None
    try:
        return await asyncio.to_thread(schema_text, schema)  # a new one takes a while
    except ValueError as error:
        raise invalid("response_format.json_schema.schema", str(error)) from None
