"""Dispatcher: sends what a request needs to the replica that does it soonest, and again where a replica is lost."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from services.adapters.metadata import AdapterLost
from services.adapters.shelf import Adapter
from services.engine.base import Delta, Prompt
from services.model.base import Model
from services.model.report import Encoded, ReplicaLost
from services.routing.call import Routed
from services.routing.placement import Placement

log = logging.getLogger(__name__)
_TRIES = 3


class Dispatcher:
    """The Model behind a Placement: a replica that is lost, or lacks files, costs a request time and no more."""

    def __init__(self, model: Model, placement: Placement, suspend: Callable[[AdapterLost], Awaitable[None]]) -> None:
        """`suspend` is told of an adapter that no replica can load."""
        self.model = model
        self._placement = placement
        self._suspend = suspend
        self.resent = 0
        """How often a request was sent to another replica, as its own was lost or lacked files."""

    async def look(self) -> None:
        """Ask all replicas how they are."""
        try:
            self._placement.all(await self.model.look())
        except Exception as error:  # whatever it is, requests go on with what is known
            log.warning("the replicas could not be asked: %s", error)

    async def encode(self, prompt: Prompt) -> Encoded:
        """Features, from the least busy replica; another one if that is lost. Raises InvalidPrompt, ReplicaLost."""
        for tries_left in reversed(range(_TRIES)):
            at = self._placement.encoder()
            try:
                encoded = await self.model.encode(prompt, at)
            except ReplicaLost:
                self._placement.lost(at)
                if not tries_left:
                    raise
                self.resent += 1
            else:
                self._placement.heard(encoded.report)
                return encoded
        raise AssertionError("unreachable")

    async def generate(self, routed: Routed, adapters: Mapping[str, Adapter]) -> AsyncGenerator[Delta, None]:
        """The answer of the replica where it comes soonest; of another one if that is lost before it said anything.

        Likewise where files are gone that another replica may have; what none can load is suspended.
        """
        call, needed, lost = routed.call, [adapter.fingerprint for adapter in adapters.values()], list[str]()
        while True:
            at = self._placement.places({"": needed}, routed.encoded_at, besides=lost)[""].replica
            said = False
            stream = self.model.generate(call.prompt, routed.gates, call.sampling, adapters, at)
            try:
                with self._placement.sent(at, needed):
                    async with contextlib.aclosing(stream):
                        async for delta in stream:
                            said = True
                            yield delta
                return
            except ReplicaLost:
                self._placement.lost(at)
                lost.append(at)
                if said or len(lost) == _TRIES:
                    raise
            except AdapterLost as error:
                self._placement.lacks(at, error.fingerprint)
                lost.append(at)
                others = set(self._placement.replicas) - set(lost)
                if not others or len(lost) == _TRIES:
                    if not self._placement.able(needed, besides=lost):
                        await self._suspend(error)
                    raise
            self.resent += 1
