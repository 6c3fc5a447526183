"""Adapters while the service runs: added, updated, removed, pinned. The store's catalogue says which there are."""

import time
from collections.abc import Collection, Sequence

from cluster.catalogue import AdapterRecord
from cluster.events import ArmRegistered, ArmRemoved
from cluster.store import Store
from services.adapters.shelf import Adapter
from services.catalogue.adapters import About, adapter_of, record_of, there
from services.catalogue.arms import announce
from services.model.base import Model


class NameTaken(ValueError):
    """The name is an adapter's, or an arm's; the message says whose."""


class Lifecycle:
    """Changes adapters on all replicas and in the store, in this order: what cannot be served changes nothing."""

    def __init__(self, store: Store, model: Model, taken: Collection[str]) -> None:
        """`taken` are names that mean something else already."""
        self._store = store
        self._model = model
        self._taken = taken

    async def add(self, name: str, source: str, about: About, like: Sequence[str] = ()) -> Adapter:
        """A new adapter, and an arm of its name. Raises InvalidAdapter, NameTaken."""
        await self._refuse_taken(name)
        loaded = await self._model.load(name, source)

        def change(before: AdapterRecord | None) -> AdapterRecord:
            if before and not before.removed:
                raise _taken(name)
            return record_of(loaded, about)

        adapter = adapter_of(name, await self._store.change_adapter(name, change))
        event = ArmRegistered(
            time=time.time(), arm=name, serves=name, adapter_hash=adapter.fingerprint, like=list(like)
        )
        await self._store.change_arm(event)
        return adapter

    async def update(self, name: str, source: str | None, about: About) -> Adapter:
        """The adapter as it is at its source now, or at another one: other content is a new version of its arms.

        Requests that run keep the version that they began with. Raises InvalidAdapter, UnknownAdapter.
        """
        known = there(name, (await self._store.catalogue()).get(name))
        loaded = await self._model.load(name, source or known.source)

        def change(before: AdapterRecord | None) -> AdapterRecord:
            fresh, found = record_of(loaded, about, before), there(name, before).found
            return fresh.model_copy(update={"found": found and fresh.source == known.source})

        adapter = adapter_of(name, await self._store.change_adapter(name, change))
        await announce(self._store, name, adapter.fingerprint, time.time())
        return adapter

    async def remove(self, name: str) -> Adapter:
        """No new request is served by it, nor by its arms, whose evidence stays. Raises UnknownAdapter."""
        record = await self._store.change_adapter(name, lambda before: there(name, before, removed=True))
        now, roster = time.time(), await self._store.roster()
        for arm in [arm for arm, known in roster.items() if known.serves == name]:
            await self._store.change_arm(ArmRemoved(time=now, arm=arm))
        return adapter_of(name, record)

    async def pin(self, name: str, pinned: bool) -> Adapter:
        """Whether it stays on every device. Raises UnknownAdapter."""
        changed = await self._store.change_adapter(name, lambda before: there(name, before, pinned=pinned))
        return adapter_of(name, changed)

    async def _refuse_taken(self, name: str) -> None:
        """Before files are read, so that a name that is taken is told of no other fault."""
        record = (await self._store.catalogue()).get(name)
        if name in self._taken or (record and not record.removed):
            raise _taken(name)
        for arm, known in (await self._store.roster()).items():
            if name in (arm, *known.former) and known.serves != name:
                raise NameTaken(f"{name!r} is or was an arm that serves {known.serves!r}, expected a name that is free")


def _taken(name: str) -> NameTaken:
    return NameTaken(f"{name!r} is taken already, expected a name that is free")
