"""One replica of the Model: an engine with one copy of the weights, and the cache of its adapters."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from services.adapters.cache import AdapterCache
from services.adapters.cache_view import CacheView
from services.adapters.shelf import Adapter, Shelf, other_content
from services.engine.base import Delta, Engine, Gate, Prompt, Sampling, added
from services.model.report import Encoded, Meter, Report


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
        """What `model/scaling.py` asks of a replica: of the adapters held since the last report, those paged in."""
        view = self._cache.view()
        pinned, missed = view.hits + view.misses, view.misses
        held, waited = pinned - self._pinned, missed - self._paged_in
        self._pinned, self._paged_in = pinned, missed
        return {"page_in_share": waited / held if held else 0.0}

    def check_health(self) -> None:
        """Raises EngineStopped when the engine has."""
        self._engine.check()
