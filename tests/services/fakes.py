"""An engine without a model: features that say what the instruction is about, and answers from a script."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from services.adapters.files import AdapterFiles
from services.adapters.metadata import InvalidAdapter
from services.engine.base import (
    Delta,
    Engine,
    EngineStopped,
    FinishReason,
    Gate,
    InvalidPrompt,
    Prompt,
    Sampling,
    TokenLogprob,
)

FAMILIES = ("calendar", "claims", "inbox")
HIDDEN = 8
CONTROL = "<|im_end|>"
BROKEN_IMAGE = b"broken"


@dataclass(frozen=True)
class FakeBlob:
    name: str
    pages: int = 1
    nbytes: int = 1


class FakeDevice:
    """A tier without memory, which knows which name came in as which key."""

    def __init__(self, capacity: int = 64) -> None:
        self.capacity = capacity
        self.names: dict[str, str] = {}
        self.fits_nothing = False

    def pages_of(self, rank: int) -> int:
        return min(rank, 1)

    def check(self, files: AdapterFiles) -> None:
        if self.fits_nothing:
            raise InvalidAdapter(f"{files.path}: another model's")

    def read(self, name: str, files: AdapterFiles, data: bytearray) -> FakeBlob:
        self.check(files)
        assert len(data) == files.size
        return FakeBlob(name)

    def page_in(self, key: str, host: FakeBlob, pages: Sequence[int]) -> None:
        assert len(pages) == host.pages
        self.names[key] = host.name

    def page_out(self, key: str) -> None:
        del self.names[key]


class FakeEngine(Engine):
    """Answers `pieces`, each of them a token, and waits for `gate` before each.

    The gate closes after `waits_after` of them; after `fails_after` of them it fails.
    """

    def __init__(self) -> None:
        self.pieces = ["left_", "click", "(500, 250)"]
        self.finish: FinishReason | None = get_args(FinishReason)[0]
        self.fails_after: int | None = None
        self.waits_after: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.encoded: list[Prompt] = []
        self.generated: list[tuple[Prompt, dict[str, Gate], Sampling]] = []
        self.given_up = 0
        self.stopped = False
        self.memory = FakeDevice()

    @property
    def feature_size(self) -> int:
        return 2 * HIDDEN + 1

    @property
    def device(self) -> FakeDevice:
        return self.memory

    async def encode(self, prompt: Prompt) -> bytes:
        for message in prompt.messages:
            if any(CONTROL in (part.text or "") for part in message.parts):
                raise InvalidPrompt(f"messages: the text contains the control token {CONTROL!r}, expected plain text")
        self.encoded.append(prompt)
        routed = prompt.routed
        return features(routed.instruction, routed.images[0] if routed.images else None).tobytes()

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, Gate], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        self.generated.append((prompt, {self.memory.names[key]: gate for key, gate in gates.items()}, sampling))
        done = False
        try:
            for number, piece in enumerate(self.pieces):
                if number == self.waits_after:
                    self.gate.clear()
                await self.gate.wait()
                self._fail_if_told(number)
                for choice in range(sampling.n):
                    yield Delta(piece, choice=choice, logprobs=told(piece, sampling))
            self._fail_if_told(len(self.pieces))
            done = True
            for choice in range(sampling.n) if self.finish else ():
                counts = (11, len(self.pieces) + choice)
                yield Delta("", self.finish, *counts, choice=choice)
        finally:
            self.given_up += not done

    def check(self) -> None:
        if self.stopped:
            raise EngineStopped("the engine has stopped")

    def close(self) -> None:
        self.stopped = True
        self.gate.set()

    def _fail_if_told(self, number: int) -> None:
        if number == self.fails_after:
            raise RuntimeError("secret of the engine")


def told(piece: str, sampling: Sampling) -> tuple[TokenLogprob, ...]:
    """What is told of a piece: that it was the likeliest, and the rest far behind."""
    if sampling.logprobs is None:
        return ()
    others = [(piece.encode(), -0.25), *((f"{other}".encode(), float("-inf")) for other in range(20))]
    return (TokenLogprob(piece.encode(), -0.25, tuple(others[: sampling.logprobs])),)


def features(instruction: str, image: bytes | None = None) -> npt.NDArray[np.float16]:
    """h [17]: what the instruction names stands out in the text half; the vision half is the image's hash or zero."""
    text = 0.3 * _noise(instruction.encode())
    for index, family in enumerate(FAMILIES):
        text[index] += 3.0 * (family in instruction)
    vision = np.zeros(HIDDEN) if image is None else _noise(image)
    return np.concatenate([text, vision, [float(image is not None)]]).astype(np.float16)


def _noise(data: bytes) -> npt.NDArray[np.float64]:
    seed = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    return np.random.default_rng(seed).normal(size=HIDDEN)
