"""Qwen3-VL with PEFT adapters, used by one thread: encode a prompt, answer a batch of rows."""

import copy
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from services.engine.answer import Answer
from services.engine.base import Delta, Prompt, Sampling
from services.engine.features import EarlyFeatures
from services.engine.loading import load
from services.engine.sampler import Sampler
from services.engine.tokens import Tokenizer, Tokens
from services.engine.vision import Vision

_NO_ADAPTER = "__base__"  # PEFT's name for a row without adapter


@dataclass(frozen=True)
class Request:
    """One row of a batch and where its answer goes; `adapter` is a name that `load` returned."""

    prompt: Prompt
    adapter: str | None
    sampling: Sampling
    send: Callable[[Delta | Exception], None]
    cancelled: Callable[[], bool]


class _Row:
    """A request while it is generated."""

    def __init__(self, request: Request, tokens: Tokens, answer: Answer) -> None:
        self.request = request
        self.tokens = tokens
        self._answer = answer
        self._sampler = Sampler(request.sampling)
        self.last = 0

    @property
    def done(self) -> bool:
        return self._answer.finished is not None or self.request.cancelled()

    def step(self, logits: torch.Tensor) -> None:
        if self.done:
            return
        self.last = self._sampler.draw(logits)
        self.request.send(self._answer.add(self.last))


class PeftModelRunner:
    """The base and its adapters in one module; every adapter stays until it is unloaded."""

    def __init__(self, path: str, *, dtype: str, device: str, encode_blocks: int, image_cache: int) -> None:
        self._base, tokenizer, images = load(path, dtype=dtype, device=device)
        config = self._base.config
        self._tokenizer = Tokenizer(tokenizer, config.image_token_id, config.text_config.max_position_embeddings)
        self._vision = Vision(self._base, images, image_cache)
        text = config.text_config
        self._features = EarlyFeatures(text.hidden_size, text.num_hidden_layers, encode_blocks, self._early_states)
        self._names = (f"adapter{i}" for i in itertools.count())  # our own: PEFT refuses dots
        self._peft: PeftModel | None = None

    @property
    def feature_size(self) -> int:
        """D of the raw features."""
        return self._features.size

    def load(self, directory: Path) -> str:
        """Load an adapter; what a request calls it. ValueError: it does not fit the model."""
        name = next(self._names)
        try:
            self._add(name, str(directory))
        except (ValueError, RuntimeError) as error:  # PEFT has registered it by then
            self.unload(name)
            raise ValueError(f"{directory}: {error}") from error
        return name

    def unload(self, name: str) -> None:
        """Forget an adapter that no request asks for any more."""
        if self._peft is None or name not in self._peft.peft_config:
            return
        others = [other for other in self._peft.peft_config if other != name]
        if others:
            self._peft.set_adapter(others[0])  # PEFT warns when the active one goes
            self._peft.delete_adapter(name)

    @torch.inference_mode()
    def encode(self, prompt: Prompt) -> bytes:
        """Raw features of what the router looks at, float16 [D]. Raises InvalidPrompt."""
        self._tokens(prompt, generate=True)  # refuse now what generation would refuse later
        routed = prompt.routed
        tokens = self._tokens(routed, generate=False)
        with self._without_adapters():
            features = self._features(tokens, self._tokenizer.instruction_span(routed, tokens))
        return features.half().numpy().tobytes()

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> None:
        """Generate every request to its end. A request that fails gets its exception, the others go on."""
        rows = [row for row in map(self._admit, requests) if row]
        try:
            if rows:
                self._decode(rows)
        except Exception as error:
            for row in rows:
                row.request.send(error)

    def _early_states(self, tokens: Tokens, blocks: int) -> torch.Tensor:
        """Runs the first blocks of the model, sharing its weights."""
        language_model = self._base.model.language_model
        early = copy.copy(language_model)
        layers = language_model.layers[:blocks]
        early._modules = {**language_model._modules, "layers": layers, "norm": nn.Identity()}
        embeddings = early.embed_tokens(tokens.ids[None].to(self._base.device))
        mask, deepstack = None, None
        if tokens.screens:
            mask = (tokens.types[None] == 1).to(self._base.device)
            embeddings[mask] = torch.cat([screen.embeddings for screen in tokens.screens])
            deepstack = [torch.cat(layer) for layer in zip(*(s.deepstack for s in tokens.screens), strict=True)]
        positions, _ = self._base.model.get_rope_index(tokens.ids[None], tokens.types[None], tokens.grids)
        states: torch.Tensor = early(
            inputs_embeds=embeddings,
            position_ids=positions.to(self._base.device),
            visual_pos_masks=mask,
            deepstack_visual_embeds=deepstack,
            use_cache=False,
        ).last_hidden_state[0]
        return states

    def _add(self, name: str, directory: str) -> None:
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._base, directory, adapter_name=name).eval()
        else:
            self._peft.load_adapter(directory, adapter_name=name)

    def _without_adapters(self) -> AbstractContextManager[None]:
        return self._peft.disable_adapter() if self._peft else nullcontext()

    def _tokens(self, prompt: Prompt, *, generate: bool) -> Tokens:
        screens = tuple(self._vision.screen(image) for image in prompt.images)
        return self._tokenizer.encode(prompt, screens, generate=generate)

    def _admit(self, request: Request) -> _Row | None:
        if request.cancelled():
            return None
        try:
            tokens = self._tokens(request.prompt, generate=True)
        except Exception as error:  # one that cannot be read must not leave the others waiting
            request.send(error)
            return None
        stop, decode = self._tokenizer.stop_tokens, self._tokenizer.decode
        return _Row(request, tokens, Answer(len(tokens.ids), request.sampling, stop, decode))

    def _decode(self, rows: list[_Row]) -> None:
        device = self._base.device
        length = max(len(row.tokens.ids) for row in rows)
        lefts = [length - len(row.tokens.ids) for row in rows]
        ids = torch.stack([pad(row.tokens.ids, (left, 0)) for row, left in zip(rows, lefts, strict=True)])
        attention = torch.stack([(torch.arange(length) >= left).long() for left in lefts])
        positions, following = self._positions(rows, lefts)
        cache = DynamicCache(config=self._base.config.text_config)
        arguments: dict[str, Any] = self._screens(rows)
        if self._peft:
            arguments["adapter_names"] = [row.request.adapter or _NO_ADAPTER for row in rows]
        while True:
            logits = (self._peft or self._base)(
                input_ids=ids.to(device),
                attention_mask=attention.to(device),
                position_ids=positions.to(device),
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
                **arguments,
            ).logits[:, -1]
            for row, row_logits in zip(rows, logits, strict=True):
                row.step(row_logits)
            if all(row.done for row in rows):
                return
            arguments.pop("mm_encoder_outputs", None)
            ids = torch.tensor([[row.last] for row in rows])
            attention = pad(attention, (0, 1), value=1)
            positions, following = following, following + 1

    def _positions(self, rows: list[_Row], lefts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary positions of the left-padded prompts [3, B, T] and of the first answer token [3, B, 1]."""
        prompts = []
        for row, left in zip(rows, lefts, strict=True):
            tokens = row.tokens
            index, _ = self._base.model.get_rope_index(tokens.ids[None], tokens.types[None], tokens.grids)
            prompts.append(pad(index, (left, 0)))
        positions = torch.cat(prompts, dim=1)
        return positions, positions.amax(dim=(0, 2), keepdim=True).expand(3, -1, 1) + 1

    @staticmethod
    def _screens(rows: list[_Row]) -> dict[str, Any]:
        screens = [screen for row in rows for screen in row.tokens.screens]
        if not screens:
            return {}
        output = BaseModelOutputWithDeepstackFeatures(
            pooler_output=[screen.embeddings for screen in screens],
            deepstack_features=[list(layer) for layer in zip(*(s.deepstack for s in screens), strict=True)],
        )
        return {"mm_encoder_outputs": {"image": output}}
