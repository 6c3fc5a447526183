"""The host tier: adapters in host memory, within a budget of bytes, the least recently used leaving first."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic

from services.adapters.tiers import B


class HostTier(Generic[B]):
    """Blobs by content hash. One that is larger than the budget is never kept."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._blobs: OrderedDict[str, B] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blobs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __contains__(self, key: str) -> bool:
        return key in self._blobs

    def get(self, key: str) -> B | None:
        """The blob, used now."""
        if key in self._blobs:
            self._blobs.move_to_end(key)
        return self._blobs.get(key)

    def put(self, key: str, blob: B) -> None:
        """Keep a blob, if the budget allows."""
        self.drop(key)
        if blob.nbytes > self.budget:
            return
        self._blobs[key] = blob
        self.bytes += blob.nbytes
        while self.bytes > self.budget:
            self.drop(next(iter(self._blobs)))

    def drop(self, key: str) -> None:
        """Forget a blob, if it is there."""
        if blob := self._blobs.pop(key, None):
            self.bytes -= blob.nbytes

    def keep_only(self, keys: frozenset[str]) -> None:
        """Forget all others."""
        for key in self._blobs.keys() - keys:
            self.drop(key)

    def check_integrity(self) -> None:
        """RuntimeError unless the bytes add up and are within the budget."""
        found = sum(blob.nbytes for blob in self._blobs.values())
        if found != self.bytes or found > self.budget:
            raise RuntimeError(f"host tier holds {found} bytes, expected {self.bytes} and at most {self.budget}")
