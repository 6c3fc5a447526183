"""The router's raw features: what the vision tower and the first decoder blocks make of a screen and its task."""

import copy

import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from services.engine.tokens import Tokens


class EarlyFeatures:
    """Runs the first `blocks` decoder blocks of a model, sharing its weights."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, blocks: int) -> None:
        language_model = model.model.language_model
        if blocks > len(language_model.layers):
            raise ValueError(f"encode_blocks: {blocks}, expected at most {len(language_model.layers)} decoder blocks")
        self._rope_index = model.model.get_rope_index
        self._early = copy.copy(language_model)
        self._early._modules = {
            **language_model._modules,
            "layers": language_model.layers[:blocks],
            "norm": nn.Identity(),
        }
        self._hidden: int = model.config.text_config.hidden_size

    @property
    def size(self) -> int:
        """D = 2 · hidden + 1."""
        return 2 * self._hidden + 1

    def __call__(self, tokens: Tokens, instruction: slice) -> torch.Tensor:
        """h = [mean instruction state ‖ mean embedding of the latest screen ‖ has_image], float32 [D].

        A chat without an image has zeros and a flag of 0 in place of vision.
        """
        text = self._states(tokens)[instruction].mean(0).float().cpu()
        if not tokens.screens:
            return torch.cat([text, torch.zeros(self._hidden + 1)])
        return torch.cat([text, tokens.screens[-1].embeddings.mean(0).float().cpu(), torch.ones(1)])

    def _states(self, tokens: Tokens) -> torch.Tensor:
        weight = self._early.embed_tokens.weight
        embeddings = self._early.embed_tokens(tokens.ids[None].to(weight.device))
        mask, deepstack = None, None
        if tokens.screens:
            mask = (tokens.types[None] == 1).to(weight.device)
            embeddings[mask] = torch.cat([screen.embeddings for screen in tokens.screens])
            layers = zip(*(screen.deepstack for screen in tokens.screens), strict=True)
            deepstack = [torch.cat(layer) for layer in layers]
        positions, _ = self._rope_index(tokens.ids[None], tokens.types[None], tokens.grids)
        states: torch.Tensor = self._early(
            inputs_embeds=embeddings,
            position_ids=positions.to(weight.device),
            visual_pos_masks=mask,
            deepstack_visual_embeds=deepstack,
            use_cache=False,
        ).last_hidden_state[0]
        return states
