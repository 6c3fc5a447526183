"""What `adapters.json`, beside the adapters' directories, says of them that their files do not."""

import json
from pathlib import Path
from typing import Any, Final

QWEN_COORDINATES = "relative-1000"
"""Qwen3-VL's convention: 0 to 1000 across the screen, whatever its size. Adapters have it unless they say otherwise."""

_FILE: Final = "adapters.json"
_LONGEST: Final = 1000


class InvalidAdapter(ValueError):
    """A directory that cannot be served as an adapter, or what is said of it; the message says why, and is short."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}"
        )


class AdapterUnavailable(RuntimeError):
    """An adapter that is known but cannot be loaded now; the message says why."""


class AdapterLost(AdapterUnavailable):
    """Its files are gone, or are not what was registered. Survives a process boundary, with name and content hash."""

    def __init__(self, message: str, adapter: str, fingerprint: str) -> None:
        super().__init__(message)
        self.adapter = adapter
        self.fingerprint = fingerprint

    def __reduce__(self) -> tuple[type["AdapterLost"], tuple[str, str, str]]:
        return AdapterLost, (str(self), self.adapter, self.fingerprint)


def coordinates(directory: Path) -> dict[str, str]:
    """The coordinate convention of every adapter that names one: `{"ui-tars": {"coordinates": "absolute"}}`.

    Raises InvalidAdapter for anything else in the file.
    """
    path = directory / _FILE
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidAdapter(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidAdapter(f"{path}: {type(document).__name__}, expected an object by adapter name")
    return {name: _coordinates(path, name, said) for name, said in document.items()}


def _coordinates(path: Path, name: str, said: Any) -> str:
    if not isinstance(said, dict) or set(said) != {"coordinates"}:
        raise InvalidAdapter(f"{path}: {name} is {said!r}, expected an object with the field 'coordinates'")
    if not isinstance(said["coordinates"], str) or not said["coordinates"]:
        raise InvalidAdapter(f"{path}: coordinates of {name} is {said['coordinates']!r}, expected a name")
    return said["coordinates"]
