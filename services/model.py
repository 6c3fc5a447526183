"""Model: hosts the engine. One replica holds one copy of the weights."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ray.exceptions import RayActorError

from services.adapters.cache import AdapterCache
from services.adapters.cache_view import CacheView
from services.adapters.metadata import AdapterUnavailable, InvalidAdapter
from services.adapters.shelf import Adapter, Shelf, other_content
from services.engine.base import Delta, Engine, Gate, InvalidPrompt, Prompt, Sampling, added
from services.replicas import Encoded, Meter, ReplicaLost, Report

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

E = TypeVar("E", bound=Exception)


class Model(Protocol):
    """What the Router asks of the model, wherever it runs. Adapters come with each request: no replica has a list."""

    async def encode(self, prompt: Prompt, at: str = "") -> Encoded:
        """Features of a prompt, read by the replica `at`, or any. Raises InvalidPrompt, ReplicaLost."""

    def generate(
        self,
        prompt: Prompt,
        gates: Mapping[str, Gate],
        sampling: Sampling,
        adapters: Mapping[str, Adapter],
        at: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """The answer under gates of `adapters`, by the replica `at`, or any.

        Raises AdapterUnavailable, AdapterLost for one whose files are gone, ReplicaLost.
        """

    async def look(self) -> list[Report]:
        """What every replica says of itself that is there."""

    async def load(self, name: str, source: str, fingerprint: str = "") -> Adapter:
        """The adapter at a source, read and found to fit on every replica, with that content hash if one is named.

        Raises InvalidAdapter, ReplicaLost.
        """

    async def caches(self) -> list[CacheView]:
        """The cache of every replica that is there."""


class ModelReplica:
    """An engine and the cache of its adapters, behind the Model protocol."""

    def __init__(
        self, engine: Engine, cache: AdapterCache[Any], shelf: Shelf, replica: str = "local", slots: int = 1
    ) -> None:
        """`slots`: how many requests the engine answers together."""
        self._engine = engine
        self._cache = cache
        self._shelf = shelf
        self._replica = replica
        self._slots = slots
        self._there, self._answering, self._encoding = Meter(), Meter(), Meter()
        self._reports = 0
        self._pinned, self._paged_in = 0, 0  # as of the last autoscaling report

    async def encode(self, prompt: Prompt, at: str = "") -> Encoded:  # noqa: ARG002 - it is there
        with self._encoding.measured():
            features = await self._engine.encode(prompt)
        return Encoded(features, self._report())

    async def generate(
        self,
        prompt: Prompt,
        gates: Mapping[str, Gate],
        sampling: Sampling,
        adapters: Mapping[str, Adapter],
        at: str = "",  # noqa: ARG002 - it is there
    ) -> AsyncGenerator[Delta, None]:
        versions = {name: self._cache.latest(adapters[name]) for name in gates}
        served = {name: adapter.fingerprint for name, adapter in versions.items()}
        by_hash: dict[str, Gate] = defaultdict(float)  # two names may stand for the same weights
        for name, gate in gates.items():
            by_hash[served[name]] = added(by_hash[served[name]], gate)
        deltas = self._engine.generate(prompt, by_hash, sampling)
        with self._there.measured():
            async with self._cache.pin(versions.values()), contextlib.aclosing(deltas):
                with self._answering.measured():
                    async for delta in deltas:
                        yield delta._replace(replica=self._replica, adapters=served) if delta.finish_reason else delta

    async def look(self) -> list[Report]:
        return [self._report()]

    def _report(self) -> Report:
        self._reports += 1
        return Report(
            self._replica,
            self._reports,
            resident=self._cache.resident,
            arriving=self._cache.arriving,
            busy=self._there.under_way,
            slots=self._slots,
            answer_ms=self._answering.ms,
            encode_ms=self._encoding.ms,
            page_in_ms=self._cache.page_in_ms,
            broken=self._cache.broken,
        )

    async def load(self, name: str, source: str, fingerprint: str = "") -> Adapter:
        adapter = await asyncio.to_thread(self._shelf.describe, name, source)
        if fingerprint and adapter.fingerprint != fingerprint:
            raise other_content(adapter.source, adapter.fingerprint, fingerprint)
        await self._cache.load(adapter)
        return adapter

    async def cache(self) -> CacheView:
        """This replica's cache."""
        return replace(self._cache.view(), replica=self._replica)

    async def caches(self) -> list[CacheView]:
        return [await self.cache()]

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `services/scaling.py` asks of a replica: of the adapters held since the last report, those paged in."""
        view = self._cache.view()
        pinned, missed = view.hits + view.misses, view.misses
        held, waited = pinned - self._pinned, missed - self._paged_in
        self._pinned, self._paged_in = pinned, missed
        return {"page_in_share": waited / held if held else 0.0}

    def check_health(self) -> None:
        """Raises EngineStopped when the engine has."""
        self._engine.check()


class RemoteModel:
    """The Model protocol over a Serve handle."""

    def __init__(self, handle: "DeploymentHandle[ModelReplica]") -> None:
        self._handle = handle

    async def encode(self, prompt: Prompt, at: str = "") -> Encoded:
        try:
            return cast(Encoded, await self._handle.options(session_id=at).encode.remote(prompt))
        except InvalidPrompt as error:
            raise _bare(error) from None
        except RayActorError as error:
            raise ReplicaLost(f"replica {at!r} is gone: {type(error).__name__}") from error

    async def generate(
        self,
        prompt: Prompt,
        gates: Mapping[str, Gate],
        sampling: Sampling,
        adapters: Mapping[str, Adapter],
        at: str = "",
    ) -> AsyncGenerator[Delta, None]:
        handle = self._handle.options(stream=True, session_id=at)  # services/directed.py sends it there
        asked = handle.generate.remote(prompt, dict(gates), sampling, dict(adapters))
        stream = cast("DeploymentResponseGenerator[Delta]", asked)
        try:
            async for delta in stream:
                yield delta
        except (asyncio.CancelledError, GeneratorExit):
            stream.cancel()
            raise
        except (InvalidPrompt, AdapterUnavailable) as error:
            raise _bare(error) from None
        except RayActorError as error:
            raise ReplicaLost(f"replica {at!r} is gone: {type(error).__name__}") from error

    async def look(self) -> list[Report]:
        reports: list[list[Report]] = await self._of_all("look")
        return [report for each in reports for report in each]

    async def load(self, name: str, source: str, fingerprint: str = "") -> Adapter:
        try:
            adapters: list[Adapter] = await self._handle.broadcast("load", name, source, fingerprint).results_async()
        except InvalidAdapter as error:
            raise _bare(error) from None
        except RayActorError as error:
            raise ReplicaLost(f"a replica is gone: {type(error).__name__}") from error
        found = sorted({adapter.fingerprint for adapter in adapters})
        if len(found) != 1:
            raise InvalidAdapter(f"{name}: the replicas read {found}, expected the same files on every node")
        return adapters[0]

    async def caches(self) -> list[CacheView]:
        return await self._of_all("cache")

    async def _of_all(self, method: str) -> list[Any]:
        """What all replicas answer but those that are gone: Serve may not have noticed yet."""
        answers = await self._handle.broadcast(method).results_async(return_exceptions=True)
        if errors := [each for each in answers if isinstance(each, Exception) and not isinstance(each, RayActorError)]:
            raise errors[0]
        return [answer for answer in answers if not isinstance(answer, Exception)]


def _bare(error: E) -> E:
    """The error as the engine raised it: Ray's copy of it prints a traceback in place of the message."""
    cause: E = getattr(error, "cause", error)
    return cause
