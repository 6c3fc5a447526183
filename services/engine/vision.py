"""Screens: decoding images and computing their vision features once."""

import hashlib
import io
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from transformers import Qwen3VLForConditionalGeneration

from services.engine.base import InvalidPrompt


class Screen(NamedTuple):
    """One image after the vision tower, at n merged patches."""

    embeddings: torch.Tensor  # [n, hidden]
    deepstack: tuple[torch.Tensor, ...]  # a [n, hidden] for each of the first decoder layers
    grid: torch.Tensor  # int64 [3]: time, height, width in patches

    @property
    def size(self) -> int:
        """Image tokens."""
        return len(self.embeddings)


class Vision:
    """Screens by the hash of their bytes, the latest `capacity` kept. Used by one thread."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, processor: Any, capacity: int) -> None:
        self._model = model
        self._processor = processor
        self._capacity = capacity
        self._screens: OrderedDict[bytes, Screen] = OrderedDict()

    def screen(self, image: bytes) -> Screen:
        """Features of an encoded image. Raises InvalidPrompt when it cannot be decoded."""
        key = hashlib.blake2b(image, digest_size=16).digest()
        screen = self._screens.pop(key, None) or self._compute(image)
        self._screens[key] = screen
        if len(self._screens) > self._capacity:
            self._screens.popitem(last=False)
        return screen

    def _compute(self, image: bytes) -> Screen:
        decoded = _decode(image)
        try:
            pixels = self._processor(images=[decoded], return_tensors="pt")
        except ValueError as error:  # a strip of pixels
            raise InvalidPrompt(f"messages: an image of {decoded.size} pixels cannot be used: {error}") from None
        grid = pixels["image_grid_thw"]
        values = pixels["pixel_values"].to(self._model.device, self._model.dtype)
        features = self._model.get_image_features(values, grid.to(self._model.device), return_dict=True)
        return Screen(features.pooler_output[0], tuple(layer[0] for layer in features.deepstack_features), grid[0])


def _decode(image: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(image)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidPrompt(f"messages: an image of {len(image)} bytes cannot be decoded: {error}") from None
