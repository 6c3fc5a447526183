"""What the cache manager asks of the tier that adapters serve from. It keeps the books; the tier copies."""

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from services.adapters.files import AdapterFiles

PAGE: Final = 8
"""Rank rows of a page."""


def pages_of(rank: int) -> int:
    """Pages that an adapter of this rank takes."""
    return -(-rank // PAGE)


class HostBlob(Protocol):
    """An adapter in host memory, as the device wants it."""

    @property
    def pages(self) -> int:
        """Pages that it takes on the device."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes on the host."""


B = TypeVar("B", bound=HostBlob)


class DeviceTier(Protocol[B]):
    """Pages of adapters on a device. Its methods may be called from any thread, one call for a key at a time."""

    @property
    def capacity(self) -> int:
        """Pages that there are."""

    def pages_of(self, rank: int) -> int:
        """Pages that an adapter of this rank takes."""

    def check(self, files: AdapterFiles) -> None:
        """Raises InvalidAdapter for what configuration and header alone show."""

    def read(self, name: str, files: AdapterFiles, data: bytearray) -> B:
        """An adapter in host memory, from its files. Raises InvalidAdapter."""

    def page_in(self, key: str, host: B, pages: Sequence[int]) -> None:
        """Copy an adapter to `pages`, as many as it has; when this returns it can serve as `key`."""

    def page_out(self, key: str) -> None:
        """Forget what was paged in as `key`; its pages may be written again."""
