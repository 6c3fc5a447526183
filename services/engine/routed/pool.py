"""The device tier of adapters: memory for so many pages, taken once."""

from collections.abc import Sequence

import torch

from services.adapters.files import AdapterFiles
from services.adapters.tiers import pages_of
from services.engine.routed.layout import Adapter, HostAdapter, PageLayout
from services.engine.routed.lora import AdapterReader
from services.engine.tower import TowerLora


class DevicePages:
    """Pages and what lies on them. Who lies where is decided elsewhere; here things are copied.

    Copies run in the thread of whoever asks, on a stream of their own: the engine's steps go on beside them.
    """

    def __init__(
        self, layout: PageLayout, reader: AdapterReader, pages: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._reader = reader
        self._data = torch.zeros(pages, layout.size, dtype=dtype, device=device)
        self._pages = [layout.page(numbers) for numbers in self._data]
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._adapters: dict[str, Adapter] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._adapters

    def __getitem__(self, key: str) -> Adapter:
        return self._adapters[key]

    @property
    def capacity(self) -> int:
        """Pages that there are."""
        return len(self._pages)

    def pages_of(self, rank: int) -> int:
        """Pages that an adapter of this rank takes."""
        return pages_of(rank)

    def check(self, files: AdapterFiles) -> None:
        """Raises InvalidAdapter for what configuration and header alone show."""
        self._reader.check(files)

    def read(self, name: str, files: AdapterFiles, data: bytearray) -> HostAdapter:
        """An adapter in host memory. Raises InvalidAdapter."""
        return self._reader.read(name, files, data)

    def page_in(self, key: str, host: HostAdapter, pages: Sequence[int]) -> None:
        """Copy an adapter to `pages`, as many as it has; when this returns it can be multiplied with as `key`."""
        if self._stream is None:
            tower = self._copy(host, pages)
        else:
            with torch.cuda.stream(self._stream):
                self._stream.wait_stream(torch.cuda.default_stream(self._data.device))  # it may read the pages still
                tower = self._copy(host, pages)
                done = self._stream.record_event()
            done.synchronize()
        self._adapters[key] = Adapter(host.name, host.rank, tuple(self._pages[page] for page in pages), tower)

    def page_out(self, key: str) -> None:
        """Forget what was paged in as `key`; its pages may be written again."""
        self._adapters.pop(key).tower.free()

    def _copy(self, host: HostAdapter, pages: Sequence[int]) -> TowerLora:
        """What is on the tower gets memory of its own while it is here; most adapters leave the tower alone."""
        for page, numbers in zip(pages, host.data, strict=True):
            self._data[page].copy_(numbers, non_blocking=True)
        return host.tower.to(self._data.device)
