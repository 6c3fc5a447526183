"""The store's catalogue of adapters, from and to what a process knows of them."""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.catalogue import AdapterRecord, Catalogue
from cluster.store import Store
from services.adapters.registry import Registry
from services.adapters.shelf import Adapter


class UnknownAdapter(LookupError):
    """There is no such adapter."""


class About(NamedTuple):
    """What operators say of an adapter; None leaves it as it is."""

    description: str | None = None
    tags: Sequence[str] | None = None
    coordinates: str | None = None


async def register_found(store: Store, registry: Registry) -> None:
    """Bring the catalogue in line with the directory of the settings, and the registry with the catalogue.

    What lies there as other content than the catalogue says is a new version; what lies there no more is no adapter,
    unless it is suspended: then it is waited for.
    """
    for adapter in registry:
        await _put_found(store, adapter)
    suspended = {arm.serves for arm in (await store.roster()).values() if arm.is_suspended}
    for name, record in (await store.catalogue()).items():
        if record.found and not record.removed and name not in registry and name not in suspended:
            await _put_lost(store, name)
    registry.follow(adapters_of(await store.catalogue()))


def adapters_of(catalogue: Catalogue) -> list[Adapter]:
    """The adapters that there are."""
    return [adapter_of(name, record) for name, record in catalogue.items() if not record.removed]


def adapter_of(name: str, record: AdapterRecord) -> Adapter:
    """An adapter as its record describes it."""
    return Adapter(
        name=name,
        source=record.source,
        fingerprint=record.fingerprint,
        rank=record.rank,
        targets=tuple(record.targets),
        size=record.size,
        description=record.description,
        tags=tuple(record.tags),
        coordinates=record.coordinates,
        pinned=record.pinned,
    )


def record_of(adapter: Adapter, about: About, before: AdapterRecord | None = None) -> AdapterRecord:
    """The record of an adapter that was read, with what is said of it now, or was before."""

    def said(field: str, otherwise: object) -> object:
        new = getattr(about, field)
        return new if new is not None else getattr(before, field) if before else otherwise

    return AdapterRecord.model_validate(
        {
            "source": adapter.source,
            "fingerprint": adapter.fingerprint,
            "rank": adapter.rank,
            "targets": list(adapter.targets),
            "size": adapter.size,
            "description": said("description", ""),
            "tags": said("tags", []),
            "coordinates": said("coordinates", adapter.coordinates),
            "pinned": before.pinned if before else False,
        }
    )


async def _put_found(store: Store, adapter: Adapter) -> None:
    """Operators' word goes first: what they added, moved or removed stays as they left it."""

    def change(before: AdapterRecord | None) -> AdapterRecord:
        if before and before.removed == before.found:
            return before
        found = record_of(adapter, About(coordinates=adapter.coordinates), before)
        return found.model_copy(update={"found": True})

    await store.change_adapter(adapter.name, change)


async def _put_lost(store: Store, name: str) -> None:
    await store.change_adapter(name, lambda before: there(name, before, removed=True, found=False))


def there(name: str, record: AdapterRecord | None, **changes: bool) -> AdapterRecord:
    """The record with changes. Raises UnknownAdapter where there is none, or a removed one."""
    if record is None or record.removed:
        raise UnknownAdapter(name)
    return record.model_copy(update=changes)
