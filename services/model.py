"""Model: hosts the engine. One replica holds one copy of the weights."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from services.engine.base import Delta, Encoded, Engine, InvalidPrompt, Prompt, Sampling

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator


class Model(Protocol):
    """What the Router asks of the model, wherever it runs."""

    async def encode(self, prompt: Prompt) -> Encoded:
        """Features of a prompt and the residency of the replica that read it. Raises InvalidPrompt."""

    def generate(self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece."""


class ModelReplica:
    """An engine behind the Model protocol."""

    def __init__(self, engine: Engine, replica: str = "local") -> None:
        self._engine = engine
        self._replica = replica

    async def encode(self, prompt: Prompt) -> Encoded:
        features = await self._engine.encode(prompt)
        return Encoded(features, self._engine.resident)

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        async for delta in self._engine.generate(prompt, gates, sampling):
            yield delta._replace(replica=self._replica) if delta.finish_reason else delta


class RemoteModel:
    """The Model protocol over a Serve handle."""

    def __init__(self, handle: "DeploymentHandle[ModelReplica]") -> None:
        self._encode = handle.encode
        self._generate = handle.options(stream=True).generate

    async def encode(self, prompt: Prompt) -> Encoded:
        try:
            return cast(Encoded, await self._encode.remote(prompt))
        except InvalidPrompt as error:
            raise _bare(error) from None

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        stream = cast("DeploymentResponseGenerator[Delta]", self._generate.remote(prompt, dict(gates), sampling))
        try:
            async for delta in stream:
                yield delta
        except (asyncio.CancelledError, GeneratorExit):
            stream.cancel()
            raise
        except InvalidPrompt as error:
            raise _bare(error) from None


def _bare(error: InvalidPrompt) -> InvalidPrompt:
    """The error as the engine raised it: Ray's copy of it prints a traceback in place of the message."""
    return InvalidPrompt(*getattr(error, "cause", error).args)
