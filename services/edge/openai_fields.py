"""The fields of OpenAI's chat completions that Pointsman does not honour: asking them for something is refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Empty = Annotated[list[Any], Field(max_length=0)]
NoTool = Literal["none", "auto"]


class TextFormat(BaseModel):
    """The only response format."""

    type: Literal["text"]


class OpenAIFields(BaseModel):
    """Fields that may say what is the case anyway, and fields that say nothing about the answer; no others exist.

    Whoever asks for what is not done gets an error that names the field, never an answer that left it out.
    """

    model_config = ConfigDict(extra="forbid")

    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Empty | None = None
    functions: Empty | None = None
    tool_choice: NoTool | None = None
    function_call: NoTool | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
