"""Where a router without labels begins: with how well each adapter alone explains some of the examples.

As in the E-step of a mixture of experts (Jacobs et al. 1991): q_k ∝ exp(−L_k/τ), L_k the task loss under adapter k
alone. Through an even mixture of all adapters a random start would learn little of each of them for many steps.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from policies.training.network import RouterMLP

_TEMPERATURE: Final = 0.1
"""τ, in nats a token: an adapter that is worse by half a nat has no share."""
_STEPS: Final = 300
_BATCH: Final = 64
_RATE: Final = 2e-3
_DECAY: Final = 1e-2


class Losses(Protocol):
    """What tells the task loss [B] of examples, by their rows, under gates [B,K]."""

    def losses(self, rows: Sequence[int], gates: Tensor) -> Tensor: ...


@torch.no_grad()
def responsibilities(model: Losses, rows: Sequence[int], arms: int, batch: int) -> Tensor:
    """q [n,K] of the examples `rows`: K forward passes for each, `batch` at a time."""
    losses = torch.empty(len(rows), arms)
    for arm in range(arms):
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            alone = nn.functional.one_hot(torch.full((len(rows[part]),), arm), arms).float()
            losses[part, arm] = model.losses(rows[part], alone)
    return torch.softmax(-losses / _TEMPERATURE, dim=1)


def fit(mlp: RouterMLP, H: Tensor, q: Tensor, chance: torch.Generator) -> None:
    """Bring the gates of features H [n,D] near to q [n,K]: the least KL(q‖g)."""
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=_RATE, weight_decay=_DECAY)
    for _ in range(_STEPS):
        rows = torch.randint(len(q), (_BATCH,), generator=chance)
        loss = nn.functional.cross_entropy(mlp(H[rows]), q[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
