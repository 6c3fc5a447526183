"""The Model over Ray Serve: a request to the replica that is named, or to all of them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ray.exceptions import RayActorError

from services.adapters.cache_view import CacheView
from services.adapters.metadata import AdapterUnavailable, InvalidAdapter
from services.adapters.shelf import Adapter
from services.engine.base import Delta, Gate, InvalidPrompt, Prompt, Sampling
from services.model.report import Encoded, ReplicaLost, Report

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

    from services.model.replica import ModelReplica

E = TypeVar("E", bound=Exception)


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
        handle = self._handle.options(stream=True, session_id=at)  # model/directed.py sends it there
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
