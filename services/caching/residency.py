"""A Model replica follows what operators want resident, and which versions of adapters are no more."""

import asyncio
import logging
from typing import Any

from cluster.connection import UNAVAILABLE
from cluster.store import Store
from services.adapters.cache import AdapterCache
from services.catalogue.adapters import adapters_of

log = logging.getLogger(__name__)
_RETRY_S = 1.0


class ResidencyFollower:
    """Tells a cache of changes in the catalogue. Requests bring their adapters along and do not wait for it."""

    def __init__(self, store: Store, cache: AdapterCache[Any], refresh_s: float) -> None:
        self._store = store
        self._cache = cache
        self._refresh_s = refresh_s
        self._version = 0

    async def step(self) -> None:
        """Take over what has changed since the last step."""
        version = await self._store.catalogue_version()
        if version == self._version:
            return
        adapters = adapters_of(await self._store.catalogue())
        self._cache.follow(adapters, kept=[adapter.fingerprint for adapter in adapters if adapter.pinned])
        self._version = version

    async def run(self) -> None:
        """Follow until cancelled; the store may go away and come back."""
        while True:
            try:
                await self.step()
                await asyncio.sleep(self._refresh_s)
            except UNAVAILABLE as error:
                log.warning("the store is away (%s): adapters stay as they are", error)
                await asyncio.sleep(_RETRY_S)
