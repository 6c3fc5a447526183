"""What a chat is answered with when it is not streamed: OpenAI's chat completion, with how it was routed."""

from typing import Literal

from services.engine.base import FinishReason
from services.schemas import RoutingInfo, Wire


class TopLogprob(Wire):
    """A token that could have come; a log-probability of -9999 is as good as impossible."""

    token: str
    bytes: list[int]
    logprob: float


class AnsweredToken(TopLogprob):
    """A token that came, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class Logprobs(Wire):
    """The log-probabilities of an answer's tokens, under the model's own distribution."""

    content: list[AnsweredToken]
    refusal: None


class Answer(Wire):
    """What the model said."""

    role: Literal["assistant"]
    content: str


class AnswerChoice(Wire):
    """One of the `n` answers; `logprobs` is null unless it was asked for."""

    index: int
    message: Answer
    logprobs: Logprobs | None
    finish_reason: FinishReason


class Usage(Wire):
    """The prompt counts once, every choice's answer counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Wire):
    """An answered chat. Its `id` is the decision's; `model` is the base with the adapters that served.

    With `stream` the same comes in chunks as server-sent events, `routing` with the last choice's finish reason.
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: Usage
    routing: RoutingInfo
