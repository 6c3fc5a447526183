"""The router's raw features: what the vision tower and the first decoder blocks make of a screen and its task."""

from collections.abc import Callable

import torch

from services.engine.tokens import Tokens

States = Callable[[Tokens, int], torch.Tensor]
"""(tokens, blocks) to the states [T, hidden] after the first blocks of the base, before the last norm."""


class EarlyFeatures:
    """Reads the states of the first `blocks` of a model's decoder blocks."""

    def __init__(self, hidden: int, layers: int, blocks: int, states: States) -> None:
        if blocks > layers:
            raise ValueError(f"encode_blocks: {blocks}, expected at most {layers} decoder blocks")
        self._hidden = hidden
        self._blocks = blocks
        self._states = states

    @property
    def size(self) -> int:
        """D = 2 · hidden + 1."""
        return 2 * self._hidden + 1

    def __call__(self, tokens: Tokens, instruction: slice) -> torch.Tensor:
        """h = [mean instruction state ‖ mean embedding of the latest screen ‖ has_image], float32 [D].

        A chat without an image has zeros and a flag of 0 in place of vision.
        """
        text = self._states(tokens, self._blocks)[instruction].mean(0).float().cpu()
        if not tokens.screens:
            return torch.cat([text, torch.zeros(self._hidden + 1)])
        return torch.cat([text, tokens.screens[-1].embeddings.mean(0).float().cpu(), torch.ones(1)])
