"""The supervised router while it is trained; to serve, its weights go into a `Projection`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from policies.projection import EPSILON


class RouterMLP(nn.Module):
    """z = W₂ tanh(W₁u + b₁) + b₂ over features h [n,D], u = LayerNorm(text ‖ vision) ‖ has_image."""

    def __init__(self, dimension: int, hidden: int, arms: Sequence[str]) -> None:
        super().__init__()
        self.arms = tuple(arms)
        self.norm = nn.LayerNorm(dimension - 1, eps=EPSILON, elementwise_affine=False)
        self.first = nn.Linear(dimension, hidden)
        self.second = nn.Linear(hidden, len(self.arms))

    def forward(self, h: Tensor) -> Tensor:
        """Logits z [n,K] in the order of `arms`."""
        u = torch.cat([self.norm(h[:, :-1]), h[:, -1:]], dim=1)
        logits: Tensor = self.second(torch.tanh(self.first(u)))
        return logits
