"""Model: hosts the engine. One replica holds one copy of the weights."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from services.adapters.cache import AdapterCache
from services.adapters.cache_view import CacheView
from services.adapters.metadata import AdapterUnavailable, InvalidAdapter
from services.adapters.shelf import Adapter, Shelf
from services.engine.base import Delta, Encoded, Engine, InvalidPrompt, Prompt, Sampling

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

E = TypeVar("E", bound=Exception)


class Model(Protocol):
    """What the Router asks of the model, wherever it runs. Adapters come with each request: no replica has a list."""

    async def encode(self, prompt: Prompt) -> Encoded:
        """Features of a prompt and the residency of the replica that read it. Raises InvalidPrompt."""

    def generate(
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling, adapters: Mapping[str, Adapter]
    ) -> AsyncGenerator[Delta, None]:
        """The answer under gates of `adapters`, piece by piece. Raises AdapterUnavailable."""

    async def load(self, name: str, source: str) -> Adapter:
        """The adapter at a source, read and found to fit on every replica. Raises InvalidAdapter."""

    async def caches(self) -> list[CacheView]:
        """The cache of every replica."""


class ModelReplica:
    """An engine and the cache of its adapters, behind the Model protocol."""

    def __init__(self, engine: Engine, cache: AdapterCache[Any], shelf: Shelf, replica: str = "local") -> None:
        self._engine = engine
        self._cache = cache
        self._shelf = shelf
        self._replica = replica

    async def encode(self, prompt: Prompt) -> Encoded:
        features = await self._engine.encode(prompt)
        return Encoded(features, self._cache.resident)

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling, adapters: Mapping[str, Adapter]
    ) -> AsyncGenerator[Delta, None]:
        versions = {name: self._cache.latest(adapters[name]) for name in gates}
        served = {name: adapter.fingerprint for name, adapter in versions.items()}
        by_hash: dict[str, float] = defaultdict(float)  # two names may stand for the same weights
        for name, gate in gates.items():
            by_hash[served[name]] += gate
        deltas = self._engine.generate(prompt, by_hash, sampling)
        async with self._cache.pin(versions.values()), contextlib.aclosing(deltas):
            async for delta in deltas:
                yield delta._replace(replica=self._replica, adapters=served) if delta.finish_reason else delta

    async def load(self, name: str, source: str) -> Adapter:
        adapter = await asyncio.to_thread(self._shelf.describe, name, source)
        await self._cache.load(adapter)
        return adapter

    async def cache(self) -> CacheView:
        """This replica's cache."""
        return replace(self._cache.view(), replica=self._replica)

    async def caches(self) -> list[CacheView]:
        return [await self.cache()]

    def check_health(self) -> None:
        """Raises EngineStopped when the engine has."""
        self._engine.check()


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
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling, adapters: Mapping[str, Adapter]
    ) -> AsyncGenerator[Delta, None]:
        asked = self._generate.remote(prompt, dict(gates), sampling, dict(adapters))
        stream = cast("DeploymentResponseGenerator[Delta]", asked)
        try:
            async for delta in stream:
                yield delta
        except (asyncio.CancelledError, GeneratorExit):
            stream.cancel()
            raise
        except (InvalidPrompt, AdapterUnavailable) as error:
            raise _bare(error) from None

    async def load(self, name: str, source: str) -> Adapter:
        try:
            adapters: list[Adapter] = await self._handle.broadcast("load", name, source).results_async()
        except InvalidAdapter as error:
            raise _bare(error) from None
        found = sorted({adapter.fingerprint for adapter in adapters})
        if len(found) != 1:
            raise InvalidAdapter(f"{name}: the replicas read {found}, expected the same files on every node")
        return adapters[0]

    async def caches(self) -> list[CacheView]:
        return cast(list[CacheView], await self._handle.broadcast("cache").results_async())


def _bare(error: E) -> E:
    """The error as the engine raised it: Ray's copy of it prints a traceback in place of the message."""
    cause: E = getattr(error, "cause", error)
    return cause
