"""Parts of OpenAI's chat completions: how an answer is formatted, and the fields that Pointsman does not honour."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Empty = Annotated[list[Any], Field(max_length=0)]
NoTool = Literal["none", "auto"]


class JsonSchema(BaseModel):
    """What an answer in JSON has to fit; a schema that is left out is fitted by every JSON value."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """Text of any kind, a JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            found = "a json_schema" if self.json_schema else "no json_schema"
            raise ValueError(f"{found} with type {self.type!r}, expected one with 'json_schema' alone")
        return self

    @property
    def schema_of_answers(self) -> dict[str, Any] | None:
        """The schema that answers are held to."""
        if self.type == "json_object":
            return {"type": "object"}
        return self.json_schema.schema_ if self.json_schema else None


class OpenAIFields(BaseModel):
    """Fields that may say what is the case anyway, and fields that say nothing about the answer; no others exist.

    Whoever asks for what is not done gets an error that names the field, never an answer that left it out.
    """

    model_config = ConfigDict(extra="forbid")

    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Empty | None = None
    functions: Empty | None = None
    tool_choice: NoTool | None = None
    function_call: NoTool | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
