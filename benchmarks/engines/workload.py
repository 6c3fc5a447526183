"""The requests of the benchmark, and the ways to answer them."""

import asyncio
import copy
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from PIL import Image

from examples.miniwob.model import load_processor
from examples.miniwob.paths import MODEL
from services.engine.base import Message, Part, Prompt, Sampling
from services.engine.loading import Checkpoint
from services.engine.routed import RoutedEngine

_WORDS = [
    "Click",
    "on",
    "the",
    "blue",
    "button",
    "in",
    "the",
    "second",
    "row",
    "of",
    "the",
    "list",
    "below",
    "and",
    "then",
    "choose",
    "the",
    "last",
    "day",
    "of",
]


class Request(NamedTuple):
    """One request: a screen, an instruction, the adapter that serves it, and how long its answer is."""

    image: Image.Image
    text: str
    adapter: str
    tokens: int

    @property
    def prompt(self) -> Prompt:
        """The chat, as an engine takes it."""
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return Prompt((Message("user", (Part(image=file.getvalue()), Part(text=self.text))),))


def requests(count: int, shortest: int, longest: int, adapters: Sequence[str]) -> list[Request]:
    """Requests over the adapters in turn, lengths drawn with a fixed seed."""
    rng = np.random.default_rng(7)
    made = []
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 255, (160, 160, 3), dtype=np.uint8))
        text = " ".join(rng.choice(_WORDS, rng.integers(5, 40)))
        made.append(Request(image, text, adapters[number % len(adapters)], int(rng.integers(shortest, longest + 1))))
    return made


def routed(
    engine: RoutedEngine,
    wanted: Sequence[Request],
    gates: Sequence[Mapping[str, float]],
    gap_s: float,
    *,
    encode: bool = False,
) -> float:
    """Seconds from the first arrival to the end of the last answer, arrivals `gap_s` apart; encoded first if asked."""
    prompts = [request.prompt for request in wanted]

    async def ask(number: int) -> None:
        await asyncio.sleep(number * gap_s)
        asked = Sampling(max_tokens=wanted[number].tokens)
        if encode:
            await engine.encode(prompts[number])
        deltas = [delta async for delta in engine.generate(prompts[number], gates[number], asked)]
        if deltas[-1].completion_tokens != asked.max_tokens:
            raise RuntimeError(f"{deltas[-1].completion_tokens} tokens, expected {asked.max_tokens}")

    async def ask_all() -> None:
        await asyncio.gather(*[ask(number) for number in range(len(wanted))])

    start = time.perf_counter()
    asyncio.run(ask_all())
    return time.perf_counter() - start


class Peft:
    """PEFT and `generate`. It has every request from the start."""

    def __init__(self, checkpoint: Checkpoint, adapters: Mapping[str, Path]) -> None:
        self._processor = load_processor(MODEL)
        self._processor.image_processor = checkpoint.images
        peft: Any = copy.deepcopy(checkpoint.model)
        for number, (name, path) in enumerate(adapters.items()):
            if number:
                peft.load_adapter(str(path), adapter_name=name)
            else:
                peft = PeftModel.from_pretrained(peft, str(path), adapter_name=name)
        self._model = peft.eval()

    def static(self, wanted: Sequence[Request], size: int) -> float:
        """Seconds to answer in batches of `size`, each up to its longest answer."""
        start = time.perf_counter()
        for first in range(0, len(wanted), size):
            batch = wanted[first : first + size]
            self._generate(batch, adapter_names=[request.adapter for request in batch])
        return time.perf_counter() - start

    def one_by_one(self, wanted: Sequence[Request]) -> float:
        """Seconds to answer one request after the other."""
        start = time.perf_counter()
        for request in wanted:
            self._model.set_adapter(request.adapter)
            self._generate([request])
        return time.perf_counter() - start

    @torch.inference_mode()
    def _generate(self, batch: Sequence[Request], **more: Any) -> None:
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.text}]}]
            for request in batch
        ]
        texts = [self._processor.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        images = [request.image for request in batch]
        inputs = self._processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        longest = max(request.tokens for request in batch)
        output = self._model.generate(**inputs, max_new_tokens=longest, do_sample=False, **more)
        if output.shape[1] - inputs["input_ids"].shape[1] != longest:
            raise RuntimeError(f"{output.shape[1] - inputs['input_ids'].shape[1]} tokens, expected {longest}")
