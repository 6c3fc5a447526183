"""Model: hosts the engine. One replica holds one copy of the weights."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from services.adapters.metadata import InvalidAdapter
from services.adapters.registry import Adapter, Registry
from services.engine.base import Delta, Encoded, Engine, InvalidPrompt, Prompt, Sampling

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

E = TypeVar("E", bound=ValueError)


class Model(Protocol):
    """What the Router asks of the model, wherever it runs."""

    async def encode(self, prompt: Prompt) -> Encoded:
        """Features of a prompt and the residency of the replica that read it. Raises InvalidPrompt."""

    def generate(self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece."""

    async def reload(self, name: str) -> Adapter:
        """Serve a known adapter as it is on disk now, on every replica. Raises InvalidAdapter."""


class ModelReplica:
    """An engine behind the Model protocol."""

    def __init__(self, engine: Engine, registry: Registry, replica: str = "local") -> None:
        self._engine = engine
        self._registry = registry
        self._replica = replica

    async def encode(self, prompt: Prompt) -> Encoded:
        features = await self._engine.encode(prompt)
        return Encoded(features, self._engine.resident)

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        served = {name: self._registry[name].fingerprint for name in gates if name in self._registry}
        async for delta in self._engine.generate(prompt, gates, sampling):
            yield delta._replace(replica=self._replica, adapters=served) if delta.finish_reason else delta

    async def reload(self, name: str) -> Adapter:
        adapter = self._registry.read(name)
        try:
            await self._engine.load(name, adapter.path)
        except ValueError as error:
            raise InvalidAdapter(str(error)) from error
        self._registry.put(adapter)  # nothing runs in between: whoever is told this hash is served by these weights
        return adapter


class RemoteModel:
    """The Model protocol over a Serve handle."""

    def __init__(self, handle: "DeploymentHandle[ModelReplica]") -> None:
        self._handle = handle
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

    async def reload(self, name: str) -> Adapter:
        try:
            adapters: list[Adapter] = await self._handle.broadcast("reload", name).results_async()
        except InvalidAdapter as error:
            raise _bare(error) from None
        found = sorted({adapter.fingerprint for adapter in adapters})
        if len(found) != 1:
            raise InvalidAdapter(f"{name}: the replicas read {found}, expected the same files on every node")
        return adapters[0]


def _bare(error: E) -> E:
    """The error as the engine raised it: Ray's copy of it prints a traceback in place of the message."""
    cause: E = getattr(error, "cause", error)
    return cause
