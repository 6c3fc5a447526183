"""The supervised router while it is trained; to serve, its weights go into a `Projection`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from policies.projection import EPSILON


class RouterMLP(nn.Module):
    """z = W₂ tanh(W₁u + b₁) + b₂ over features h [n,D], u = LayerNorm(text ‖ vision) ‖ has_image.

    With `layers`, every decoder block has a head of its own, z_l = z + Δ_l [tanh(W₁u + b₁) ; 1]. The Δ_l begin at zero
    and have a mean of zero over the blocks, so that z is what the heads have in common.
    """

    heads: nn.Parameter | None

    def __init__(self, dimension: int, hidden: int, arms: Sequence[str], layers: int = 0) -> None:
        super().__init__()
        self.arms = tuple(arms)
        self.norm = nn.LayerNorm(dimension - 1, eps=EPSILON, elementwise_affine=False)
        self.first = nn.Linear(dimension, hidden)
        self.second = nn.Linear(hidden, len(self.arms))
        own = nn.Parameter(torch.zeros(layers, len(self.arms), hidden + 1)) if layers else None
        self.register_parameter("heads", own)

    @property
    def apart(self) -> Tensor:
        """Δ [L,K,hidden + 1]; L is 0 where all blocks share one head."""
        if self.heads is None:
            return torch.zeros(0, len(self.arms), self.second.in_features + 1)
        return self.heads - self.heads.mean(dim=0)

    def with_heads(self, layers: int) -> "RouterMLP":
        """The same network with a head for each of the blocks, which do not differ yet."""
        made = RouterMLP(self.first.in_features, self.first.out_features, self.arms, layers)
        made.load_state_dict(self.state_dict(), strict=False)
        return made

    def forward(self, h: Tensor) -> Tensor:
        """Logits z [n,K] in the order of `arms`."""
        logits: Tensor = self.second(self._hidden(h))
        return logits

    def by_layer(self, h: Tensor) -> Tensor:
        """Logits [n,L,K] of every block; L is 1 where all blocks share one head."""
        hidden = self._hidden(h)
        logits: Tensor = self.second(hidden)[:, None]
        if self.heads is not None:
            logits = logits + torch.einsum("lkj,nj->nlk", self.apart, nn.functional.pad(hidden, (0, 1), value=1.0))
        return logits

    def _hidden(self, h: Tensor) -> Tensor:
        u = torch.cat([self.norm(h[:, :-1]), h[:, -1:]], dim=1)
        return torch.tanh(self.first(u))
