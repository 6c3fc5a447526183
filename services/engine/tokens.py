"""From a chat to token ids: chat template, image placeholders, the span of the instruction."""

from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from services.engine.base import InvalidPrompt, Prompt
from services.engine.tower import BASE, TowerMixture
from services.engine.vision import Pixels, Screen, Vision

TEXT, IMAGE = 0, 1


class Tokens(NamedTuple):
    """A chat as the model reads it; T tokens."""

    ids: torch.Tensor  # int64 [T]
    types: torch.Tensor  # int64 [T]: 0 text, 1 image
    grids: torch.Tensor  # int64 [images, 3]: time, height, width in patches
    images: tuple[Pixels | Screen, ...]
    tower: TowerMixture = BASE  # that looks at them


class Tokenizer:
    """Turns prompts into tokens for one model. Any thread may, one at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vision: Vision, image_token: int, room: int) -> None:
        """`room`: tokens of a prompt and its answer at most."""
        self._tokenizer = tokenizer
        self._vision = vision
        self._image_token = image_token
        self.room = room
        placeholder = tokenizer.convert_ids_to_tokens(image_token)
        self._controls = sorted({placeholder, *tokenizer.all_special_tokens})
        self.stop_tokens = frozenset(
            token for token in (tokenizer.eos_token_id, tokenizer.pad_token_id) if token is not None
        )

    def encode(self, prompt: Prompt, *, generate: bool, tower: TowerMixture = BASE) -> Tokens:
        """Tokens of the chat; with `generate` they end where the answer begins.

        Raises InvalidPrompt for an image that cannot be decoded, control tokens in a text and tokens that leave
        no room for an answer.
        """
        text = self._render(prompt, generate=generate)
        images = tuple(self._vision.read(image, tower) for image in prompt.images)
        ids: list[int] = []
        sizes = map(self._vision.tokens, images)
        for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]:
            ids.extend([token] * next(sizes) if token == self._image_token else [token])
        if len(ids) >= self.room:
            raise InvalidPrompt(f"messages: {len(ids)} tokens, expected fewer than {self.room}")
        tensor = torch.tensor(ids)
        grids = torch.stack([i.grid for i in images]) if images else torch.empty(0, 3, dtype=torch.long)
        return Tokens(tensor, (tensor == self._image_token).long(), grids, images, tower)

    def instruction_span(self, prompt: Prompt, tokens: Tokens) -> slice:
        """Where the text of a routed prompt (one user message, its text last) stands among its tokens.

        Counted from the end, where image placeholders have not moved anything.
        """
        text, instruction = self._render(prompt, generate=False), prompt.instruction.strip()
        start = text.rindex(instruction)
        stop = start + len(instruction)
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        inside = [i - len(offsets) for i, (left, right) in enumerate(offsets) if left < stop and right > start]
        length = len(tokens.ids)
        return slice(length + inside[0], length + inside[-1] + 1) if inside else slice(length - 1, length)

    def decode(self, ids: list[int]) -> str:
        """Text of answer tokens, control tokens left out."""
        return str(self._tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True))

    def _render(self, prompt: Prompt, *, generate: bool) -> str:
        chat = [{"role": m.role, "content": [self._part(p.text) for p in m.parts]} for m in prompt.messages]
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate))

    def _part(self, text: str | None) -> dict[str, Any]:
        if text is None:
            return {"type": "image"}
        for control in self._controls:
            if control in text:
                raise InvalidPrompt(f"messages: the text contains the control token {control!r}, expected plain text")
        return {"type": "text", "text": text}
