"""The adapters on disk: one PEFT LoRA per subdirectory, identified by the hash of its content."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from services.adapters import metadata
from services.adapters.metadata import InvalidAdapter
from services.adapters.shelf import Adapter, describe

BASE = "base"  # the arm without an adapter
AUTO = "auto"  # the model name that asks for routing
_RESERVED = frozenset({AUTO, BASE, "custom", "top2", "soft"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(name: str) -> bool:
    """Whether an arm may be called so."""
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


class Registry:
    """The adapters of a directory, by name, and the mixtures of them that are arms too.

    `mixtures` says how many adapters each mixture has at most.
    """

    def __init__(self, directory: Path, mixtures: Mapping[str, int] = MappingProxyType({})) -> None:
        """Read every subdirectory. Raises InvalidAdapter for the first one that cannot be served."""
        self.mixtures = mixtures
        if not directory.is_dir():
            raise InvalidAdapter(f"model.adapters: {directory} is not a directory")
        found = (_read(path) for path in sorted(directory.iterdir()) if _holds_adapter(path))
        self._adapters = {adapter.name: adapter for adapter in found}
        self._coordinates = metadata.coordinates(directory)
        if strangers := sorted(self._coordinates.keys() - self._adapters.keys()):
            raise InvalidAdapter(f"{directory / 'adapters.json'}: {strangers[0]!r} is none of the adapters beside it")

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._adapters.values())

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def __getitem__(self, name: str) -> Adapter:
        return self._adapters[name]

    def put(self, adapter: Adapter) -> None:
        """Another version of a known adapter from now on, or a new one."""
        self._adapters[adapter.name] = adapter

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

    def coordinates(self, name: str) -> str:
        """The convention of the answers of the base or of an adapter."""
        return self._coordinates.get(name, metadata.QWEN_COORDINATES)


def _holds_adapter(path: Path) -> bool:
    """Hidden directories are those of tools: `.git`, `.cache`."""
    return path.is_dir() and not path.name.startswith(".")


def _read(path: Path) -> Adapter:
    if not is_name(path.name):
        raise InvalidAdapter(
            f"{path}: the name {path.name!r} cannot be an adapter's, expected letters, digits, '.', '_', '-' "
            f"(at most 64) and none of {', '.join(sorted(_RESERVED))}"
        )
    return describe(path.name, path)
