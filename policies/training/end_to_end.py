"""Stages 2 and 3: the router learns through the soft mixture of the adapters what helps with the task itself."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from policies.checks import Array, Mask
from policies.training.collapse import health
from policies.training.network import RouterMLP
from policies.training.responsibilities import fit, responsibilities
from policies.training.stage import Round, Stage, from_plain, generator, plain

Gates = Literal["soft", "gumbel", "straight_through"]
_EPSILON: Final = 1e-9
_CLIP: Final = 1.0


class TaskModel(Protocol):
    """The base model and its adapters over the examples of a training, by their rows."""

    @property
    def experts(self) -> Mapping[str, nn.Parameter]:
        """The adapters' weights; they are frozen unless a stage thaws them."""

    def losses(self, rows: Sequence[int], gates: Tensor) -> Tensor:
        """Task loss [B] of each example under its mixture; gradients reach the gates.

        Gates are [B,K], or [B,L,K] where each decoder block has its own.
        """


@dataclass(frozen=True)
class EndToEndConfig:
    """Settings of stages 2 and 3.

    entropy, kl, balance: λ_H of the mean entropy of the gates, λ_KL of KL(q‖g) to smoothed labels where there are some,
    λ_LB of K·Σₖ ḡₖ² − 1 on a batch's marginal gates ḡ.  gates: the softmax of z/τ itself, with Gumbel noise, or the
    latter's largest as one-hot with its gradient (straight-through).  τ falls geometrically over all rounds.
    balanced: whether batches hold every group equally often.  expert_rate: the adapters' rate relative to the router's.
    probes: examples that every adapter answers alone at first, to give a random start its responsibilities; 0: none.
    """

    rounds: int = 12
    steps: int = 25
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    entropy: float = 0.02
    kl: float = 0.1
    balance: float = 0.1
    label_smoothing: float = 0.05
    gates: Gates = "soft"
    temperature_start: float = 1.0
    temperature_end: float = 0.2
    balanced: bool = True
    expert_rate: float = 0.1
    probes: int = 0
    seed: int = 0

    def temperature(self, done: float) -> float:
        """τ after a share of all steps."""
        return float(self.temperature_start * (self.temperature_end / self.temperature_start) ** done)


class EndToEnd(Stage):
    """A round is a number of steps on batches, then the held-out examples as they would be served: each by its largest
    gate alone, or by its mixture where every decoder block has a head.

    H [n,D] are the features of the examples; labels and groups are "" where there are none; aside [n] are held out. The
    best round is that of the least held-out loss; round 0 is what the stage started from. With
    `joint` the adapters learn too.
    """

    def __init__(
        self,
        mlp: RouterMLP,
        model: TaskModel,
        H: Array,
        labels: Sequence[str],
        groups: Sequence[str],
        aside: Mask,
        config: EndToEndConfig,
        *,
        joint: bool = False,
    ) -> None:
        self.name = "stage 3" if joint else "stage 2"
        self.mlp = copy.deepcopy(mlp)
        self._model = model
        self._config = config
        self._H = torch.tensor(H, dtype=torch.float32)
        self._targets = torch.tensor([mlp.arms.index(label) if label in mlp.arms else -1 for label in labels])
        self._kept, self._aside = (np.flatnonzero(side).tolist() for side in (~aside, aside))
        if not len(self._kept) or not len(self._aside):
            raise ValueError(f"{len(self._kept)} examples to train on and {len(self._aside)} held out, expected some")
        self._labels = [labels[i] for i in self._aside]
        self._chances = _chances([groups[i] for i in self._kept], balanced=config.balanced)
        self._experts = dict(model.experts) if joint else {}
        for weight in self._experts.values():
            weight.requires_grad_(True)
        parameters: list[dict[str, Any]] = [{"params": list(self.mlp.parameters()), "lr": config.learning_rate}]
        if joint:
            rate = config.expert_rate * config.learning_rate
            parameters.append({"params": list(self._experts.values()), "lr": rate, "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self._history: list[Round] = []
        self._best = self._weights()

    @property
    def rounds(self) -> int:
        return self._config.rounds + 1  # with the one that only judges the start

    @property
    def history(self) -> list[Round]:
        return self._history

    @property
    def finished(self) -> bool:
        return len(self._history) >= self.rounds

    def advance(self) -> Round:
        number = len(self._history)
        if number == 0 and self._config.probes:
            self._begin()
        loss = self._learn(number) if number else None
        gates, held_out_loss = self._judge()
        loss = held_out_loss if loss is None else loss
        self._history.append(Round(number, loss, held_out_loss, health(gates, self.mlp.arms, self._labels)))
        if self._kept_round.number == number:
            self._best = self._weights()
        return self._history[-1]

    def keep_best(self) -> Round:
        self._put(self._best)
        return self._kept_round

    def close(self) -> None:
        """Freeze the adapters again."""
        for weight in self._experts.values():
            weight.requires_grad_(False)

    def state(self) -> dict[str, Any]:
        return {
            "weights": self._weights(),
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "history": plain(self._history),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._put(state["weights"])
        self._best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._history = from_plain(state["history"])

    @property
    def _kept_round(self) -> Round:
        return min(self._history, key=lambda one: (one.held_out_loss, one.number))

    def _begin(self) -> None:
        config, chance = self._config, generator(self._config.seed, self.name, 0)
        count = min(config.probes, len(self._kept))
        drawn = torch.tensor(self._kept)[torch.multinomial(self._chances, count, generator=chance)]
        q = responsibilities(self._model, drawn.tolist(), len(self.mlp.arms), config.batch_size)
        fit(self.mlp, self._H[drawn], q, chance)

    def _learn(self, number: int) -> float:
        chance = generator(self._config.seed, self.name, number)
        losses = []
        for step in range(self._config.steps):
            done = (number - 1 + step / self._config.steps) / self._config.rounds
            loss = self._loss(self._batch(chance), self._config.temperature(done), chance)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_([*self.mlp.parameters(), *self._experts.values()], _CLIP)
            self._optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def _batch(self, chance: torch.Generator) -> Tensor:
        drawn = torch.multinomial(self._chances, self._config.batch_size, replacement=True, generator=chance)
        return torch.tensor(self._kept)[drawn]

    def _loss(self, rows: Tensor, temperature: float, chance: torch.Generator) -> Tensor:
        logits = self.mlp.by_layer(self._H[rows])
        g = torch.softmax(logits / temperature, dim=-1)
        gates = self._relaxed(logits, g, temperature, chance).squeeze(1)  # one head for all blocks is one gate for all
        task = self._model.losses(rows.tolist(), gates).mean()
        return task + self._regularised(g, self._targets[rows])

    def _relaxed(self, logits: Tensor, g: Tensor, temperature: float, chance: torch.Generator) -> Tensor:
        """The gates that a batch is computed under."""
        if self._config.gates == "soft":
            return g
        uniform = torch.rand(logits.shape, generator=chance).clamp(_EPSILON, 1 - 1e-6)
        noisy = torch.softmax((logits - torch.log(-torch.log(uniform))) / temperature, dim=-1)
        if self._config.gates == "gumbel":
            return noisy
        hard = nn.functional.one_hot(noisy.argmax(dim=-1), noisy.shape[-1]).to(noisy.dtype)
        return hard + noisy - noisy.detach()

    def _regularised(self, g: Tensor, targets: Tensor) -> Tensor:
        """Of gates [B,L,K]; a mean over the blocks."""
        config, arms = self._config, g.shape[-1]
        entropy = -(g * torch.log(g + _EPSILON)).sum(dim=-1).mean()
        balance = arms * (g.mean(dim=0) ** 2).sum(dim=-1).mean() - 1
        loss = config.entropy * entropy + config.balance * balance
        told = targets >= 0
        if config.kl and told.any():
            smoothing = config.label_smoothing
            q = nn.functional.one_hot(targets[told], arms)[:, None] * (1 - smoothing) + smoothing / arms
            divergence = (q * (torch.log(q + _EPSILON) - torch.log(g[told] + _EPSILON))).sum(dim=-1).mean(dim=1)
            loss = loss + config.kl * divergence.sum() / len(targets)
        return loss

    @torch.no_grad()
    def _judge(self) -> tuple[Array, float]:
        """Held-out gates [n,K] at the last temperature, and the mean loss of each example as it would be served."""
        H, tau = self._H[self._aside], self._config.temperature_end
        logits = self.mlp(H)
        served = nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float()
        if self.mlp.heads is not None:  # hard routing would not show how the blocks differ
            served = torch.softmax(self.mlp.by_layer(H) / tau, dim=-1)
        total = 0.0
        for start in range(0, len(self._aside), self._config.batch_size):
            part = slice(start, start + self._config.batch_size)
            total += float(self._model.losses(self._aside[part], served[part]).sum())
        gates = torch.softmax(logits.double() / tau, dim=1).numpy()
        return gates, total / len(self._aside)

    def _weights(self) -> dict[str, Any]:
        experts = {name: weight.detach().clone() for name, weight in self._experts.items()}
        return {"mlp": copy.deepcopy(self.mlp.state_dict()), "experts": experts}

    @torch.no_grad()
    def _put(self, weights: dict[str, Any]) -> None:
        self.mlp.load_state_dict(weights["mlp"])
        for name, weight in self._experts.items():
            weight.copy_(weights["experts"][name])


def _chances(groups: Sequence[str], *, balanced: bool) -> Tensor:
    """How often each example is drawn: every group as often as any other, or every example."""
    if not balanced:
        return torch.ones(len(groups))
    _, of, counts = np.unique(np.array(groups, dtype=np.str_), return_inverse=True, return_counts=True)
    return torch.tensor(1 / counts[of], dtype=torch.float32)
