"""Adapters whose files are gone, or changed behind our back: their arms are suspended until the files are back."""

import asyncio
import contextlib
import logging
import time

from cluster.connection import UNAVAILABLE
from cluster.events import ArmRemoved
from cluster.roster import UnknownArm
from cluster.store import Store
from services.adapters.metadata import AdapterLost, InvalidAdapter
from services.catalogue.arms import announce
from services.model.base import Model

log = logging.getLogger(__name__)


class Outages:
    """Suspends an adapter's arms by an event, and registers them again once every replica can read its files."""

    def __init__(self, store: Store, model: Model, again_s: float) -> None:
        """`again_s`: seconds between two looks at files that are gone."""
        self._store = store
        self._model = model
        self._again_s = again_s

    async def suspend(self, lost: AdapterLost) -> None:
        """No request is routed to the arms of this version from now on; what they learned stays."""
        version = lost.adapter, lost.fingerprint
        for arm, record in (await self._store.roster()).items():
            if (record.serves, record.adapter_hash) == version and record.is_there:
                log.warning("%s is suspended: %s", arm, lost)
                with contextlib.suppress(UnknownArm):  # it was renamed meanwhile: the next request will find it
                    await self._store.change_arm(ArmRemoved(time=time.time(), arm=arm, absent=True, reason=str(lost)))

    async def step(self) -> list[str]:
        """Look for what is back: the adapters whose arms serve again."""
        catalogue, roster = await self._store.catalogue(), await self._store.roster()
        suspended = sorted({record.serves for record in roster.values() if record.is_suspended} & catalogue.keys())
        back = []
        for name in suspended:
            record = catalogue[name]
            try:
                await self._model.load(name, record.source, record.fingerprint)
            except (InvalidAdapter, OSError) as error:
                log.info("%s stays suspended: %s", name, error)
                continue
            now = (await self._store.catalogue()).get(name)
            if now is None or now.fingerprint != record.fingerprint:
                continue  # removed or updated while we looked: whoever did that has told the arms
            await announce(self._store, name, record.fingerprint, time.time())
            log.warning("%s is back: its arms serve again", name)
            back.append(name)
        return back

    async def run(self) -> None:
        """Look until cancelled, whatever goes wrong."""
        while True:
            await asyncio.sleep(self._again_s)
            try:
                await self.step()
            except UNAVAILABLE as error:
                log.warning("the store is away (%s): suspended arms stay so", error)
            except Exception as error:  # a replica is lost, or starts: the next look may tell
                log.warning("the replicas could not be asked for files: %s", error)
