"""An engine without a model: features at once, an answer at once, or after the pause that the instruction names."""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cluster.settings import Settings
from policies.context import ContextMap
from services.adapters.files import AdapterFiles
from services.adapters.tiers import pages_of
from services.engine.base import Delta, Engine, Gate, Prompt, Sampling

_CALL: Final = '{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [512, 384]}}'
ANSWER: Final = f"<tool_call>\n{_CALL}\n</tool_call>"
_CAPACITY: Final = 64
_PAUSE: Final = re.compile(r"wait (\d+\.?\d*) s")


def engine(settings: Settings) -> Engine:
    """An instant engine whose features the trained router of the settings can read."""
    return InstantEngine(ContextMap.load(settings.router.path).input_dimension)


@dataclass(frozen=True)
class _Weightless:
    pages: int
    nbytes: int


class WeightlessPages:
    """A device tier that keeps no weights."""

    capacity = _CAPACITY

    def pages_of(self, rank: int) -> int:
        return pages_of(rank)

    def check(self, files: AdapterFiles) -> None:
        """Everything fits."""

    def read(self, name: str, files: AdapterFiles, data: bytearray) -> _Weightless:  # noqa: ARG002 - no weights, no name
        return _Weightless(pages_of(files.rank), len(data))

    def page_in(self, key: str, host: _Weightless, pages: Sequence[int]) -> None:
        """Nothing is copied."""

    def page_out(self, key: str) -> None:
        """Nothing is freed."""


class InstantEngine(Engine):
    """Features that differ by prompt, and one answer for all."""

    def __init__(self, feature_size: int) -> None:
        self._feature_size = feature_size
        self._device = WeightlessPages()

    @property
    def feature_size(self) -> int:
        return self._feature_size

    @property
    def device(self) -> WeightlessPages:
        return self._device

    async def encode(self, prompt: Prompt) -> bytes:
        routed = prompt.routed
        digest = hashlib.blake2b(b"".join([*routed.images, routed.instruction.encode()]), digest_size=8).digest()
        noise = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(self._feature_size, np.float32)
        return noise.astype(np.float16).tobytes()

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, Gate], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        del gates, sampling  # whoever serves, and however long
        if found := _PAUSE.search(prompt.instruction):
            await asyncio.sleep(float(found[1]))
        yield Delta(ANSWER, "stop", prompt_tokens=300, completion_tokens=30)

    def check(self) -> None:
        """Nothing can have stopped."""

    def close(self) -> None:
        """Nothing is held."""
