"""The task table of Poly: trained with relaxed coins, so that tasks find which arms they share (Ponti et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import RelaxedBernoulli

from policies.checks import Array

_EPSILON = 1e-12


class PolyRouter(nn.Module):
    """Logits [T, S·A] of T tasks, S splits and A arms, as in PEFT's Poly."""

    def __init__(self, tasks: int, arms: int, splits: int = 1) -> None:
        super().__init__()
        self.splits, self.arms = splits, arms
        self.logits = nn.Parameter(torch.empty(tasks, splits * arms).uniform_(-1e-3, 1e-3))

    def forward(self, tasks: Tensor) -> Tensor:
        """Weights [B,S,A] of task indices [B]: relaxed Bernoulli draws in training, else sigmoids; they sum to 1."""
        logits = self.logits[tasks].view(-1, self.splits, self.arms)
        coins = RelaxedBernoulli(torch.ones(()), logits=logits).rsample() if self.training else torch.sigmoid(logits)
        weights: Tensor = coins / (coins.sum(dim=-1, keepdim=True) + _EPSILON)
        return weights


def train_poly(
    tasks: Sequence[str], labels: Sequence[str], *, splits: int = 1, steps: int = 300, rate: float = 0.1, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...], Array]:
    """Tasks, arms and logits [T,S,A] from labelled examples: the task of each, and the arm that is right for it.

    Minimises −log of the weight of the right arm, over all splits. ValueError: no example.
    """
    if not labels or len(labels) != len(tasks):
        raise ValueError(f"{len(tasks)} tasks and {len(labels)} labels, expected as many, and at least one")
    names, arms = sorted(set(tasks)), sorted(set(labels))
    rows = torch.tensor([names.index(task) for task in tasks])
    right = torch.tensor([arms.index(label) for label in labels])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        router = PolyRouter(len(names), len(arms), splits)
        _fit(router, rows, right, steps, rate)
    logits = router.logits.detach().double().view(len(names), splits, len(arms)).numpy()
    return tuple(names), tuple(arms), logits


def _fit(router: PolyRouter, rows: Tensor, right: Tensor, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(router.parameters(), lr=rate)
    for _ in range(steps):
        weights = router(rows).mean(dim=1)
        loss = -torch.log(weights.gather(1, right[:, None]) + _EPSILON).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
