"""The contract of the Model, which encodes and generates, wherever it runs."""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from services.adapters.cache_view import CacheView
from services.adapters.shelf import Adapter
from services.engine.base import Delta, Gate, Prompt, Sampling
from services.model.report import Encoded, Report


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
