"""Seeing: every image token must name what stands in its part of the screen, in the words that the text uses.

From answers alone a vision tower of this size stays blind for a long time. Here the gradient reaches it directly, and
through the shared token embedding a picture of something comes to lie near its name, which makes finding it easy.
"""

from typing import Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from examples.miniwob.batches import GRID, IMAGE_TOKENS
from examples.miniwob.episodes import SCALE
from examples.miniwob.model import MERGE
from examples.miniwob.screens import Screen

_SIDE: Final = GRID // MERGE
"""Image tokens along each side of a screen."""
_EMPTY: Final = 0.1
"""Weight of an image token with nothing to name, which should say <|endoftext|>."""


class Naming:
    """The loss of naming, for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._nothing: int = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self._words: dict[str, list[int]] = {}

    def loss(
        self,
        model: Qwen3VLForConditionalGeneration,
        seen: BaseModelOutputWithDeepstackFeatures,
        screens: list[Screen],
    ) -> torch.Tensor:
        """Weighted mean cross entropy between what the image tokens say and an even mix of the words that are there."""
        said = model.lm_head(torch.cat(tuple(seen.pooler_output))).float().log_softmax(-1)
        there = torch.stack([self._target(screen, said.shape[-1]) for screen in screens]).flatten(0, 1)
        weight = torch.where(there[:, self._nothing] > 0, _EMPTY, 1.0)
        loss: torch.Tensor = -((said * there).sum(-1) * weight).sum() / weight.sum()
        return loss

    def _target(self, screen: Screen, vocabulary: int) -> torch.Tensor:
        """Shares of the words [image tokens, vocabulary] that each image token should say."""
        shares = torch.zeros(IMAGE_TOKENS, vocabulary)
        for label, x, y in screen.scene:
            shares[y * _SIDE // (SCALE + 1) * _SIDE + x * _SIDE // (SCALE + 1), self._ids(label)] += 1
        shares[shares.sum(-1) == 0, self._nothing] = 1
        return shares / shares.sum(-1, keepdim=True)

    def _ids(self, label: str) -> list[int]:
        if label not in self._words:
            self._words[label] = self._tokenizer(f" {label}").input_ids
        return self._words[label]
