"""The adapters on disk: one PEFT LoRA per subdirectory, identified by the hash of its content."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from services.adapters import metadata
from services.adapters.metadata import InvalidAdapter
from services.adapters.shelf import Adapter, Shelf
from services.adapters.tiers import pages_of

BASE = "base"  # the arm without an adapter
AUTO = "auto"  # the model name that asks for routing
_RESERVED = frozenset({AUTO, BASE, "custom", "top2", "soft"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(name: str) -> bool:
    """Whether an arm may be called so."""
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


class Registry:
    """The adapters of a directory, by name, and the mixtures of them that are arms too.

    `mixtures` says how many adapters each mixture has at most, `room` how many pages the adapters of one request may
    take.
    """

    def __init__(
        self,
        directory: Path,
        mixtures: Mapping[str, int] = MappingProxyType({}),
        shelf: Shelf | None = None,
        room: int = 1 << 20,
    ) -> None:
        """Read every subdirectory. Raises InvalidAdapter for the first one that cannot be served."""
        self.mixtures = mixtures
        self.room = room
        shelf = shelf or Shelf([directory])
        if not directory.is_dir():
            raise InvalidAdapter(f"model.adapters: {directory} is not a directory")
        directory = directory.absolute()
        said = metadata.coordinates(directory)
        found = (_read(shelf, path, said) for path in sorted(directory.iterdir()) if _holds_adapter(path))
        self._adapters = {adapter.name: adapter for adapter in found}
        if strangers := sorted(said.keys() - self._adapters.keys()):
            raise InvalidAdapter(f"{directory / 'adapters.json'}: {strangers[0]!r} is none of the adapters beside it")

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._adapters.values())

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def __getitem__(self, name: str) -> Adapter:
        return self._adapters[name]

    def follow(self, adapters: Iterable[Adapter]) -> None:
        """These there are, and no others."""
        self._adapters = {adapter.name: adapter for adapter in adapters}

    @property
    def arms(self) -> tuple[str, ...]:
        """What the router chooses among: the base first, then every adapter, then mixtures."""
        return BASE, *self._adapters, *self.mixtures

    @property
    def paths(self) -> dict[str, Path]:
        """Directory of every adapter."""
        return {adapter.name: adapter.path for adapter in self}

    def gates(self, arm: str) -> dict[str, float]:
        """Adapters that the base's or an adapter's arm turns on, with their weights."""
        return {} if arm == BASE else {arm: 1.0}

    def pages(self, names: Iterable[str]) -> int:
        """Pages that adapters take together on a device."""
        return sum(pages_of(self[name].rank) for name in names)

    def coordinates(self, name: str) -> str:
        """The convention of the answers of the base or of an adapter."""
        return self._adapters[name].coordinates if name in self._adapters else metadata.QWEN_COORDINATES


def _holds_adapter(path: Path) -> bool:
    """Hidden directories are those of tools: `.git`, `.cache`."""
    return path.is_dir() and not path.name.startswith(".")


def check_name(name: str, where: str = "name") -> None:
    """Raises InvalidAdapter for a name that cannot be an adapter's."""
    if not is_name(name):
        raise InvalidAdapter(
            f"{where}: the name {name!r} cannot be an adapter's, expected letters, digits, '.', '_', '-' "
            f"(at most 64) and none of {', '.join(sorted(_RESERVED))}"
        )


def _read(shelf: Shelf, path: Path, said: Mapping[str, str]) -> Adapter:
    check_name(path.name, str(path))
    adapter = shelf.describe(path.name, str(path))
    return replace(adapter, coordinates=said.get(path.name, adapter.coordinates))
