"""The router's raw features: what the vision tower and the first decoder blocks make of a screen and its task."""

import torch

from services.engine.vision import Screen


class EarlyFeatures:
    """Pools the states of the first decoder blocks, before the last norm."""

    def __init__(self, hidden: int) -> None:
        self._hidden = hidden

    @property
    def size(self) -> int:
        """D = 2 · hidden + 1."""
        return 2 * self._hidden + 1

    def __call__(self, states: torch.Tensor, instruction: slice, screen: Screen | None) -> torch.Tensor:
        """h = [mean instruction state ‖ mean embedding of the latest screen ‖ has_image], float32 [D].

        `states` [T, hidden]. A chat without an image has zeros and a flag of 0 in place of vision.
        """
        text = states[instruction].mean(0).float().cpu()
        if screen is None:
            return torch.cat([text, torch.zeros(self._hidden + 1)])
        return torch.cat([text, screen.embeddings.mean(0).float().cpu(), torch.ones(1)])
