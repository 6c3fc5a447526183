"""From screens and questions to the model's inputs: pictures as patches, texts as tokens, batches padded right."""

import base64
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from examples.miniwob.episodes import SIDE
from examples.miniwob.model import MERGE, PATCH
from examples.miniwob.questions import Question
from examples.miniwob.screens import Screen

GRID: Final = SIDE // PATCH
"""Patches along each side of a screen."""
IMAGE_TOKENS: Final = (GRID // MERGE) ** 2
IGNORED: Final = -100
"""Label of a token that is given, not learned."""


@dataclass(frozen=True)
class Batch:
    """Tokens, labels [rows, length]; patches [rows, GRID², 3·PATCH²] as the processor makes them, one image a row."""

    tokens: torch.Tensor
    labels: torch.Tensor
    patches: torch.Tensor


def to_patches(image: str) -> torch.Tensor:
    """A screen's base64 PNG as bytes [GRID², 3·PATCH²], in the processor's order, not yet normalised."""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"))
    blocks = GRID // MERGE
    grid = torch.from_numpy(picture.copy()).view(blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    return grid.permute(0, 3, 1, 4, 6, 2, 5).reshape(GRID**2, -1)


def normalise(patches: torch.Tensor) -> torch.Tensor:
    """Bytes 0..255 as the processor's -1..1."""
    return patches.float() / 127.5 - 1


def image_grid(rows: int) -> torch.Tensor:
    """The processor's `image_grid_thw` for that many screens."""
    return torch.tensor([[1, GRID, GRID]]).expand(rows, 3)


class Encoder:
    """Encodes a question and its answer exactly as the chat template would; remembers the questions it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self._seen: dict[str, list[int]] = {}

    def prompt(self, question: str) -> list[int]:
        """Token ids of a user's turn, a screen and the question, up to where the answer starts."""
        if question not in self._seen:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            text = text.replace("<|image_pad|>", "<|image_pad|>" * IMAGE_TOKENS)
            self._seen[question] = self.tokenizer(text).input_ids
        return self._seen[question]

    def batch(self, questions: list[Question], screens: list[torch.Tensor]) -> Batch:
        """Questions with answers about screens, given as byte patches, padded to the longest."""
        rows = []
        for question, answer in questions:
            prompt = self.prompt(question)
            learned = self.tokenizer(answer + "<|im_end|>").input_ids
            rows.append((prompt + learned, [IGNORED] * len(prompt) + learned))
        length = max(len(tokens) for tokens, _ in rows)
        tokens = torch.tensor([tokens + [self._pad] * (length - len(tokens)) for tokens, _ in rows])
        labels = torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows])
        return Batch(tokens, labels, normalise(torch.stack(screens)))


def patch_table(screens: list[Screen]) -> torch.Tensor:
    """Byte patches [screens, GRID², 3·PATCH²] of all the screens."""
    return torch.stack([to_patches(screen.image) for screen in screens])
