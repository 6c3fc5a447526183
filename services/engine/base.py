"""What the service asks of an engine: encode a chat for the router, then generate under the gates it chose."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from services.adapters.tiers import DeviceTier

FinishReason = Literal["stop", "length"]
Gate = float | tuple[float, ...]
"""How much of an adapter: as much in every decoder block, or so much in each of them."""


class InvalidPrompt(ValueError):
    """The chat cannot be encoded: a broken image, too many tokens, a control token in the text.

    Carries its message alone, so that it survives a process boundary.
    """


class InvalidSchema(InvalidPrompt):
    """The answer cannot be held to the JSON schema: following it over the model's tokens takes too much."""


class EngineStopped(RuntimeError):
    """The engine was closed, or has failed for good, while the request was waiting or running."""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message: text, or an image as encoded bytes (PNG, JPEG, WebP, GIF)."""

    text: str | None = None
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat as the client sent it."""

    messages: tuple[Message, ...]

    @property
    def images(self) -> list[bytes]:
        """Every image, in order."""
        return [part.image for message in self.messages for part in message.parts if part.image is not None]

    @property
    def instruction(self) -> str:
        """The text of the first user message that has any: what computer-use agents put the task in."""
        texts = ("\n".join(p.text for p in m.parts if p.text) for m in self.messages if m.role == "user")
        return next((text for text in texts if text), "")

    @property
    def routed(self) -> "Prompt":
        """What the router looks at: the latest image and the first instruction, as one user message."""
        image = tuple(Part(image=image) for image in self.images[-1:])
        return Prompt((Message("user", (*image, Part(text=self.instruction))),))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy.

    frequency_penalty, presence_penalty: taken off a token's logit for each time, and once, that the answer has it.
    n: choices, answers to the same prompt, each drawn with a seed of its own.  logprobs: how many of the likeliest
    tokens are told beside each one drawn; None tells nothing.  json_schema: the answer is JSON that fits it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    n: int = 1
    logprobs: int | None = None
    json_schema: str | None = None

    def at_most(self, tokens: int) -> "Sampling":
        """The same, for an answer of `tokens` tokens or fewer."""
        return self if tokens >= self.max_tokens else replace(self, max_tokens=tokens)

    def of_choice(self, number: int) -> "Sampling":
        """How choice `number` is drawn: the first one as it would be alone."""
        return self if self.seed is None else replace(self, seed=self.seed + number)


class TokenLogprob(NamedTuple):
    """A token of the answer, its log-probability, and the likeliest tokens in its place with theirs.

    Of the model's own distribution: before temperature, top_p, penalties and JSON schema.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Delta(NamedTuple):
    """A piece of a choice. Its last one has a finish reason, the token counts, the replica and what served there."""

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    replica: str = ""
    adapters: Mapping[str, str] | None = None  # content hash of each adapter that served
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


def added(one: Gate, other: Gate) -> Gate:
    """The gate of weights that two adapters have in common."""
    if not isinstance(one, tuple):
        return added(other, one) if isinstance(other, tuple) else one + other
    others = other if isinstance(other, tuple) else (other,) * len(one)
    return tuple(a + b for a, b in zip(one, others, strict=True))


class Engine(ABC):
    """Hosts one model and its adapters."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """D, the length of the raw features."""

    @property
    @abstractmethod
    def device(self) -> DeviceTier[Any]:
        """Where adapters lie that can serve. What serves is in it from before `generate` is called to its end."""

    @abstractmethod
    async def encode(self, prompt: Prompt) -> bytes:
        """Raw features of what the router looks at, float16 bytes [D]. Raises InvalidPrompt."""

    @abstractmethod
    def generate(self, prompt: Prompt, gates: Mapping[str, Gate], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """The answer under `Σ gates[a] · adapter a` (empty: the base alone), piece by piece, choices side by side.

        Where an adapter has a gate for each block, its part of the vision tower has their mean.

        a is a key of `device`. Closing the iterator gives up the request. Raises InvalidPrompt, InvalidSchema, KeyError
        for an adapter that is not there, ValueError for gates that it cannot serve, EngineStopped when the engine is
        closed meanwhile.
        """

    @abstractmethod
    def check(self) -> None:
        """Raises EngineStopped once nothing can be answered any more."""

    @abstractmethod
    def close(self) -> None:
        """Fail what is waiting and free the model."""
