"""The router's raw features of examples, computed once by the service's own engine and kept on disk by content hash."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from policies.checks import Array
from services.engine.base import InvalidPrompt, Prompt
from services.engine.feature_spec import FeatureSpec
from services.training.examples import Example, InvalidData

_PENDING: Final = 64


class Encoder(Protocol):
    """What computes features: an Engine."""

    async def encode(self, prompt: Prompt) -> bytes:
        """Raw features, float16."""


Engines = Callable[[], AbstractContextManager[Encoder]]


class FeatureCache:
    """Features by content hash, those of one spec, in one SQLite file."""

    def __init__(self, path: Path, spec: FeatureSpec) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._spec = hashlib.sha256(repr(spec).encode()).hexdigest()[:16]
        self._file = sqlite3.connect(path)
        self._file.execute("CREATE TABLE IF NOT EXISTS features (key TEXT PRIMARY KEY, h BLOB NOT NULL)")

    def __getitem__(self, key: str) -> bytes | None:
        row = self._file.execute("SELECT h FROM features WHERE key = ?", (self._name(key),)).fetchone()
        return bytes(row[0]) if row else None

    def put(self, found: Iterable[tuple[str, bytes]]) -> None:
        """Keep features."""
        with self._file:
            named = [(self._name(key), h) for key, h in found]
            self._file.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", named)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _name(self, key: str) -> str:
        return f"{self._spec} {key}"


def features(
    examples: Sequence[Example],
    spec: FeatureSpec,
    cache: Path,
    engines: Engines,
    advance: Callable[[int], Any] = lambda _: None,
) -> Array:
    """H [n,D], float64 of the float16 that the service would log. An engine starts only if something is missing.

    `advance` is told how many more are there. Raises InvalidData with the row of a prompt that cannot be encoded.
    """
    with closing(FeatureCache(cache, spec)) as kept:
        missing = {e.key: e for e in examples if kept[e.key] is None}
        advance(len(examples) - len(missing))
        if missing:
            with engines() as engine:
                asyncio.run(_compute(engine, list(missing.values()), kept, advance))
        rows = [np.frombuffer(h, np.float16) for e in examples if (h := kept[e.key]) is not None]
    return np.stack(rows).astype(np.float64)


async def _compute(
    engine: Encoder, examples: Sequence[Example], kept: FeatureCache, advance: Callable[[int], Any]
) -> None:
    for start in range(0, len(examples), _PENDING):
        block = examples[start : start + _PENDING]
        kept.put(zip([e.key for e in block], await asyncio.gather(*[_encode(engine, e) for e in block]), strict=True))
        advance(len(block))


async def _encode(engine: Encoder, example: Example) -> bytes:
    try:
        return await engine.encode(example.prompt)
    except InvalidPrompt as error:
        raise InvalidData(f"row {example.row}: {error}") from None
