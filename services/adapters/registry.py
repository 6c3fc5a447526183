"""The adapters on disk: one PEFT LoRA per subdirectory, identified by the hash of its content."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError, safe_open

from services.adapters import metadata
from services.adapters.metadata import InvalidAdapter

BASE = "base"  # the arm without an adapter
AUTO = "auto"  # the model name that asks for routing
_RESERVED = frozenset({AUTO, BASE, "custom", "top2", "soft"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One LoRA."""

    name: str
    path: Path
    fingerprint: str  # SHA-256 of configuration and weights, first 16 hex digits
    rank: int
    targets: tuple[str, ...]
    size: int  # bytes of the weights


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

    def read(self, name: str) -> Adapter:
        """A known adapter as it is on disk now; the registry does not change. Raises InvalidAdapter, KeyError."""
        return _read(self[name].path)

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
    for file in _FILES:
        if not (path / file).is_file():
            raise InvalidAdapter(f"{path}: {file} is missing (weights must be safetensors)")
    rank, targets = _config(path / _FILES[0])
    _check_weights(path / _FILES[1])
    digest = hashlib.sha256()
    for file in _FILES:
        digest.update((path / file).read_bytes())
    return Adapter(
        name=path.name,
        path=path,
        fingerprint=digest.hexdigest()[:16],
        rank=rank,
        targets=targets,
        size=(path / _FILES[1]).stat().st_size,
    )


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as weights:
            names = list(weights.keys())
    except (SafetensorError, OSError) as error:
        raise InvalidAdapter(f"{path}: not safetensors: {error}") from None
    if not any("lora_" in name for name in names):
        raise InvalidAdapter(f"{path}: {len(names)} tensors and none of them a LoRA's, expected lora_A and lora_B")


def _config(path: Path) -> tuple[int, tuple[str, ...]]:
    """Rank and target modules."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidAdapter(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidAdapter(f"{path}: {type(config).__name__}, expected a JSON object")
    for key, kind in (("r", int), ("target_modules", list | str)):
        if not isinstance(config.get(key), kind):
            raise InvalidAdapter(f"{path}: {key} is {config.get(key)!r}, expected a PEFT LoRA configuration")
    if config.get("peft_type") != "LORA":
        raise InvalidAdapter(f"{path}: peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    targets = config["target_modules"]
    return config["r"], (targets,) if isinstance(targets, str) else tuple(sorted(targets))
