"""The disk tier: an adapter's files, found by its source and held against its content hash."""

from dataclasses import dataclass
from pathlib import Path

from services.adapters import files
from services.adapters.files import AdapterFiles, Content
from services.adapters.metadata import InvalidAdapter


@dataclass(frozen=True, slots=True)
class Adapter:
    """One LoRA."""

    name: str
    path: Path
    fingerprint: str  # SHA-256 of configuration and weights, first 16 hex digits
    rank: int  # of the module that has the largest
    targets: tuple[str, ...]
    size: int  # bytes of the weights


def describe(name: str, path: Path) -> Adapter:
    """The adapter in a directory, as it is now. Raises InvalidAdapter."""
    return _described(name, files.inspect(path), files.fingerprint(path))


def read(adapter: Adapter) -> Content:
    """Its files, which may have been replaced meanwhile: other weights under its name are another version.

    Raises InvalidAdapter.
    """
    content = files.read(adapter.path)
    if content.fingerprint != adapter.fingerprint:
        raise InvalidAdapter(
            f"{adapter.path}: content hash {content.fingerprint}, expected {adapter.fingerprint}: the files were "
            "replaced, `pointsman adapters update` takes them"
        )
    return content


def _described(name: str, found: AdapterFiles, fingerprint: str) -> Adapter:
    targets = found.config["target_modules"]
    return Adapter(
        name=name,
        path=found.path,
        fingerprint=fingerprint,
        rank=found.rank,
        targets=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        size=found.size,
    )
