"""Wire types: the OpenAI chat completions that Pointsman speaks, and its own routing and feedback."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic import ValidationInfo as Info

from cluster.events import ArmScore
from services.edge.openai_fields import OpenAIFields, ResponseFormat

_STOPS = 16
Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


UNION_TAGS = frozenset({"<text>", "<parts>", "<one>", "<many>"})  # in the paths of pydantic's errors, not in the JSON


def _one_or_many(value: object) -> str:
    return "<many>" if isinstance(value, list) else "<one>"


def _text_or_parts(value: object) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


class Wire(BaseModel):
    """A body we define: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ImageUrl(BaseModel):
    """Where an image is: a data URL, or a URL on an allowed host."""

    url: str
    detail: str | None = None


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class FunctionCall(BaseModel):
    """What an assistant called, its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One turn; the content is a string or a list of parts, and may be null where an assistant calls tools."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[ToolCall] | None = None
    content: (
        Annotated[
            Annotated[str, Tag("<text>")] | Annotated[list[ContentPart], Tag("<parts>")], Discriminator(_text_or_parts)
        ]
        | None
    ) = Field(None, validate_default=True)

    @field_validator("tool_calls")
    @classmethod
    def _only_an_assistant_calls(cls, calls: list[ToolCall] | None, info: Info) -> list[ToolCall] | None:
        if calls and info.data.get("role") != "assistant":
            raise ValueError(f"{len(calls)} calls in a turn of {info.data.get('role')!r}, expected an assistant's")
        return calls

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: Any, info: Info) -> Any:
        if content is None and not info.data.get("tool_calls"):
            raise ValueError("null, but text or parts are required unless an assistant's tool_calls are given")
        return content


class Metadata(BaseModel):
    """What Pointsman reads of a request's `metadata`."""

    episode_id: Identifier | None = None
    task: Identifier | None = None
    tenant: Identifier | None = None


Gate = Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)]


class Routing(Wire):
    """How to route one request: among some arms only, or not at all but by the gates of the client."""

    arms: list[str] | None = Field(None, min_length=1, description="Choose among these arms only.")
    gates: dict[str, Gate] | None = Field(None, min_length=1, description="Serve this mixture; it teaches nothing.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.arms and self.gates:
            raise ValueError("arms and gates, expected one of them")
        return self


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(OpenAIFields):
    """A chat completion request."""

    model: str = "auto"
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1)
    stop: str | list[str] | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20, validate_default=True)
    response_format: ResponseFormat | None = None
    frequency_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    presence_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    metadata: Metadata = Field(default_factory=Metadata)
    routing: Routing = Field(default_factory=Routing)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """OpenAI's clients may say null for what they leave open."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    @field_validator("stop")
    @classmethod
    def _not_too_many(cls, stop: str | list[str] | None) -> str | list[str] | None:
        """Each is looked for at every token."""
        if isinstance(stop, list) and len(stop) > _STOPS:
            raise ValueError(f"{len(stop)} strings, expected at most {_STOPS}")
        return stop

    @field_validator("top_logprobs")
    @classmethod
    def _beside_logprobs(cls, top: int | None, info: Info) -> int | None:
        if top and not info.data.get("logprobs"):
            raise ValueError(f"{top} without logprobs, expected logprobs to be true")
        return top

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, without empty ones."""
        return tuple(s for s in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if s)


class RoutingInfo(BaseModel):
    """How a request was routed."""

    decision_id: str
    arm: str
    gates: dict[str, float]
    policy: str
    policy_version: int
    propensity: float
    explored: bool
    supervised: str
    resident: bool
    durable: bool

    def headers(self) -> dict[str, str]:
        """The `x-pointsman-*` headers."""
        gates = ",".join(f"{name}={gate:g}" for name, gate in self.gates.items())
        values = self.model_dump(exclude={"gates", "supervised"}) | {"gates": gates}
        return {f"x-pointsman-{name.replace('_', '-')}": _header(value) for name, value in values.items()}


def _header(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class FeedbackItem(Wire):
    """The outcome of a decision or of an episode."""

    decision_id: Identifier | None = None
    episode_id: Identifier | None = None
    reward: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    success: bool | None = None
    terminated: bool = False
    truncated: bool = False
    source: Identifier | None = None
    comment: str | None = Field(None, max_length=2000)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.decision_id is None) == (self.episode_id is None):
            raise ValueError("expected exactly one of decision_id and episode_id")
        if self.reward is not None and self.success is not None:
            raise ValueError("expected reward or success, not both")
        if self.value is None and not self.truncated:
            raise ValueError("expected reward (0 to 1) or success (true or false), unless truncated is true")
        return self

    @property
    def value(self) -> float | None:
        """The reward; none for a truncated episode without one."""
        return float(self.success) if self.success is not None else self.reward


FeedbackBody = Annotated[
    Annotated[FeedbackItem, Tag("<one>")] | Annotated[list[FeedbackItem], Tag("<many>")], Discriminator(_one_or_many)
]


class FeedbackResult(BaseModel):
    """What became of one feedback item."""

    decision_id: str | None = None
    episode_id: str | None = None
    status: Literal["recorded", "duplicate", "corrected", "late", "unknown"]


class FeedbackResponse(BaseModel):
    """What became of each item, in order, and how many of each."""

    results: list[FeedbackResult]
    counts: dict[str, int]


class Explanation(BaseModel):
    """What would be decided now, and why: every eligible arm, best score first."""

    arm: str
    gates: dict[str, float]
    propensity: float
    propensity_error: float  # standard error, where the propensity estimates that of an ideal policy (lints)
    explored: bool
    supervised: str
    policy: str
    policy_version: int
    resident: list[str]
    arms: list[ArmScore]


class ModelCard(BaseModel):
    """One name that `model` may have."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "pointsman"


class ModelList(BaseModel):
    """The names that `model` may have."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
