"""Screens: decoding images, and computing their vision features once."""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from transformers import Qwen3VLForConditionalGeneration

from services.engine.base import InvalidPrompt
from services.engine.products import PackedLinear, packs
from services.engine.tower import BASE, Key, TowerMixture


class Pixels(NamedTuple):
    """One image before the vision tower."""

    key: bytes  # the hash of its encoded bytes
    values: torch.Tensor  # [patches, numbers of a patch]
    grid: torch.Tensor  # int64 [3]: time, height, width in patches


class Screen(NamedTuple):
    """One image after the vision tower, at n merged patches."""

    key: bytes
    embeddings: torch.Tensor  # [n, hidden]
    deepstack: tuple[torch.Tensor, ...]  # a [n, hidden] for each of the first decoder layers
    grid: torch.Tensor


class Vision:
    """Screens by the hash of their bytes and what the tower computed them with, the latest `capacity` kept.

    Any thread may read images; one thread computes screens.
    """

    def __init__(
        self, model: Qwen3VLForConditionalGeneration, processor: Any, capacity: int, *, packed: bool = True
    ) -> None:
        """A tower that is `packed`, where that is faster, gives no gradients."""
        self._model = model
        self._processor = processor
        self._capacity = capacity
        self._merged: int = model.config.vision_config.spatial_merge_size**2
        self._screens: OrderedDict[tuple[bytes, Key], Screen] = OrderedDict()
        if packed and packs(model.device, model.dtype):
            _pack(model.model.visual)

    def read(self, image: bytes, tower: TowerMixture = BASE) -> Pixels | Screen:
        """An encoded image, or its features if they are kept. Raises InvalidPrompt when it cannot be decoded."""
        key = _hash(image)
        return self._screens.get((key, tower.key)) or self._pixels(key, image)

    def pixels(self, image: bytes) -> Pixels:
        """An encoded image before the tower. Raises InvalidPrompt when it cannot be decoded."""
        return self._pixels(_hash(image), image)

    def _pixels(self, key: bytes, image: bytes) -> Pixels:
        decoded = _decode(image)
        try:
            read = self._processor(images=[decoded], return_tensors="pt")
        except ValueError as error:  # a strip of pixels
            raise InvalidPrompt(f"messages: an image of {decoded.size} pixels cannot be used: {error}") from None
        return Pixels(key, read["pixel_values"], read["image_grid_thw"][0])

    def tokens(self, image: Pixels | Screen) -> int:
        """How many tokens an image has."""
        return int(image.grid.prod()) // self._merged

    def screens(self, images: Sequence[Pixels | Screen], tower: TowerMixture = BASE) -> list[Screen]:
        """Features of images that were read for the same tower; those that are not kept are computed together."""
        found = {image.key: image for image in images if isinstance(image, Screen)} | self._kept(images, tower.key)
        missing = {image.key: image for image in images if isinstance(image, Pixels) and image.key not in found}
        found |= {screen.key: screen for screen in self._compute(list(missing.values()), tower)}
        self._keep([found[image.key] for image in images], tower.key)
        return [found[image.key] for image in images]

    def _kept(self, images: Sequence[Pixels | Screen], tower: Key) -> dict[bytes, Screen]:
        return {i.key: self._screens[i.key, tower] for i in images if (i.key, tower) in self._screens}

    def _keep(self, screens: Sequence[Screen], tower: Key) -> None:
        for screen in screens:
            self._screens[screen.key, tower] = screen
            self._screens.move_to_end((screen.key, tower))
        while len(self._screens) > self._capacity:
            self._screens.popitem(last=False)

    def _compute(self, images: Sequence[Pixels], tower: TowerMixture) -> list[Screen]:
        if not images:
            return []
        grids = torch.stack([image.grid for image in images])
        values = torch.cat([image.values for image in images]).to(self._model.device, self._model.dtype)
        with tower.on(self._model.model.visual):
            features = self._model.get_image_features(values, grids.to(self._model.device), return_dict=True)
        layers = zip(*features.deepstack_features, strict=True) if features.deepstack_features else [()] * len(images)
        parts = zip(images, features.pooler_output, layers, strict=True)
        return [Screen(image.key, embeddings, tuple(deep), image.grid) for image, embeddings, deep in parts]


def _hash(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()


def _decode(image: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(image)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidPrompt(f"messages: an image of {len(image)} bytes cannot be decoded: {error}") from None


def _pack(tower: torch.nn.Module) -> None:
    """Put packed layers in the place of linear ones, and of the patches' convolution, whose windows do not overlap."""
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(parent, name, PackedLinear(child))
    tower.patch_embed = PackedLinear(tower.patch_embed.proj)  # type: ignore[arg-type, union-attr]
