"""The adapters as the store knows them: one record for each that there is or was, followed by every process."""

from collections.abc import Callable, Mapping
from typing import cast

from pydantic import Field

from cluster.connection import Connection
from cluster.events import Record


class AdapterRecord(Record):
    """One adapter's version of now. `found` in the directory of the settings, not added while the service ran.

    A removed one stays known, so that it is not found again at the next start.
    """

    source: str
    fingerprint: str
    rank: int
    targets: list[str]
    size: int
    description: str = ""
    tags: list[str] = Field(default_factory=list)
    coordinates: str
    pinned: bool = False
    found: bool = False
    removed: bool = False


Catalogue = Mapping[str, AdapterRecord]
Change = Callable[[AdapterRecord | None], AdapterRecord]
"""From the record that there is to the one that shall be; it may refuse by raising."""


class CatalogueStore(Connection):
    """Reads and changes the adapters' records. Every change is counted, so that others notice it."""

    async def catalogue(self) -> Catalogue:
        """Every adapter by name, removed ones too."""
        stored = cast(dict[bytes, bytes], await self._redis.hgetall(self._key("adapters")))
        return {name.decode(): AdapterRecord.model_validate_json(record) for name, record in sorted(stored.items())}

    async def catalogue_version(self) -> int:
        """How often it has changed."""
        return int(await self._redis.get(self._key("catalogue")) or 0)

    async def change_adapter(self, name: str, change: Change) -> AdapterRecord:
        """Apply a change to the record that there is now; what it is after. Raises what `change` raises."""
        while True:
            stored = cast(bytes | None, await self._redis.hget(self._key("adapters"), name)) or b""
            before = AdapterRecord.model_validate_json(stored) if stored else None
            after = change(before)
            if after == before:
                return after
            keys = [self._key("adapters"), self._key("catalogue")]
            if await self._scripts["catalogue"](keys, [name, stored, after.model_dump_json()]):
                return after
