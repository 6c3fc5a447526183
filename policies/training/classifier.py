"""Stage 1: the router learns from labelled examples which arm is right."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from policies import checks
from policies.checks import Array, Mask
from policies.training.calibration import probabilities
from policies.training.collapse import health
from policies.training.network import RouterMLP
from policies.training.stage import Round, Stage, from_plain, generator, plain


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of stage 1. An epoch draws as many examples as there are; `balanced`, each arm as often as any other.

    held_out: share of every arm's examples that is never trained on.  patience: epochs without a lower held-out loss
    before training ends.
    """

    hidden: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    batch_size: int = 64
    epochs: int = 60
    patience: int = 8
    held_out: float = 0.2
    balanced: bool = True
    seed: int = 0


def held_out_rows(labels: Sequence[str], config: ClassifierConfig) -> Mask:
    """[n]: which examples are held out, the same for the same labels and seed; every arm keeps at least one of each.

    ValueError: an arm with fewer than 2 examples.
    """
    names = np.array(labels, dtype=np.str_)
    mask = np.zeros(len(names), dtype=np.bool_)
    rng = np.random.default_rng(config.seed)
    for arm in sorted(set(labels)):
        rows = rng.permutation(np.flatnonzero(names == arm))
        if len(rows) < 2:
            raise ValueError(f"arm {arm!r} has {len(rows)} example, expected at least 2")
        mask[rows[: min(len(rows) - 1, max(1, round(config.held_out * len(rows))))]] = True
    return mask


class _Examples(NamedTuple):
    H: Tensor
    targets: Tensor
    weights: Tensor
    gains: Tensor


class Classifier(Stage):
    """An epoch a round, on features H [n,D], the arm that is right for each, and how much each weighs.

    `aside` [n] are the held-out examples, by default those of `held_out_rows`. The arms are those that are given, or
    that the other examples name: a held-out example of another one counts as missed, and its loss does not count.
    Weights replace balancing: what they say of the arms' shares must stand. `advantages` [n] are NaN where the label is
    the arm that is right; else the label is the arm that a log chose, which earned so much more than was usual, and the
    loss is −w·advantage·g of that arm (Joachims et al. 2018), with w = 1/propensity. ValueError: fewer than 2 arms to
    train on, or no held-out example of them.
    """

    name = "stage 1"

    def __init__(
        self,
        H: npt.ArrayLike,
        labels: Sequence[str],
        config: ClassifierConfig,
        *,
        aside: Mask | None = None,
        arms: Sequence[str] = (),
        weights: Array | None = None,
        advantages: Array | None = None,
    ) -> None:
        features = checks.array("H", H, (len(labels), None))
        self._config = config
        self._history: list[Round] = []
        aside = held_out_rows(labels, config) if aside is None else aside
        named = sorted({label for label, out in zip(labels, aside, strict=True) if not out})
        if len(named) < 2:
            raise ValueError(f"labels name {named}, expected at least 2 arms")
        if not {label for label, out in zip(labels, aside, strict=True) if out} & set(named):
            raise ValueError(f"no held-out example is labelled with one of {named}, expected some")
        arms = arms or named
        targets = np.array([arms.index(label) if label in arms else -1 for label in labels])
        given = np.ones(len(labels)) if weights is None else checks.array("weights", weights, (len(labels),))
        gains = np.full(len(labels), np.nan) if advantages is None else advantages
        self._labels = [
            label if np.isnan(gain) else "" for label, gain, out in zip(labels, gains, aside, strict=True) if out
        ]
        self._kept, self._aside = (_examples(features, targets, given, gains, rows) for rows in (~aside, aside))
        self._balanced = config.balanced and weights is None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.mlp = RouterMLP(features.shape[1], config.hidden, arms)
        rate, decay = config.learning_rate, config.weight_decay
        self._optimizer = torch.optim.AdamW(self.mlp.parameters(), lr=rate, weight_decay=decay)
        self._best = copy.deepcopy(self.mlp.state_dict())

    @property
    def rounds(self) -> int:
        return self._config.epochs

    @property
    def history(self) -> list[Round]:
        return self._history

    @property
    def finished(self) -> bool:
        done = len(self._history)
        return done >= self._config.epochs or (done > 0 and done - self._least.number >= self._config.patience)

    def advance(self) -> Round:
        number = len(self._history) + 1
        loss = self._epoch(generator(self._config.seed, self.name, number))
        gates, held_out_loss = self._evaluate()
        self._history.append(Round(number, loss, held_out_loss, health(gates, self.mlp.arms, self._labels)))
        if self._least.number == number:
            self._best = copy.deepcopy(self.mlp.state_dict())
        return self._history[-1]

    def keep_best(self) -> Round:
        self.mlp.load_state_dict(self._best)
        return self._least

    def state(self) -> dict[str, Any]:
        return {
            "mlp": self.mlp.state_dict(),
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "history": plain(self._history),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.mlp.load_state_dict(state["mlp"])
        self._best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._history = from_plain(state["history"])

    @property
    def _least(self) -> Round:
        return min(self._history, key=lambda one: (one.held_out_loss, one.number))

    def _epoch(self, chance: torch.Generator) -> float:
        losses = []
        for rows in torch.split(self._order(chance), self._config.batch_size):
            part = _Examples(*(tensor[rows] for tensor in self._kept))
            loss = (part.weights * _losses(self.mlp(part.H), part, self._config.label_smoothing)).mean()
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def _order(self, chance: torch.Generator) -> Tensor:
        """The examples of an epoch."""
        targets = self._kept.targets
        if not self._balanced:
            return torch.randperm(len(targets), generator=chance)
        counts = torch.bincount(targets).double()
        return torch.multinomial(1 / counts[targets], len(targets), replacement=True, generator=chance)

    @torch.no_grad()
    def _evaluate(self) -> tuple[Array, float]:
        logits = self.mlp(self._aside.H)
        weights = self._aside.weights * (self._aside.targets >= 0)
        losses = _losses(logits, self._aside, 0.0)
        return probabilities(logits.double().numpy()), float((weights * losses).sum() / weights.sum())


def train_classifier(
    H: npt.ArrayLike,
    labels: Sequence[str],
    config: ClassifierConfig,
    progress: Callable[[Round], None] = lambda _: None,
) -> tuple[RouterMLP, dict[str, float]]:
    """Train on features H [n,D] and the arm that is right for each; the best epoch by held-out loss is kept.

    Returns the network and the held-out accuracy and loss. ValueError: fewer than 2 arms, or examples of one.
    """
    stage = Classifier(H, labels, config)
    while not stage.finished:
        progress(stage.advance())
    best = stage.keep_best()
    aside = held_out_rows(labels, config)
    with torch.no_grad():
        top = stage.mlp(torch.tensor(np.asarray(H)[aside], dtype=torch.float32)).argmax(dim=1).numpy()
    accuracy = float(np.mean(np.array(stage.mlp.arms)[top] == np.array(labels, dtype=np.str_)[aside]))
    return stage.mlp, {"accuracy": accuracy, "loss": best.held_out_loss, "epochs": float(best.number)}


def _examples(H: Array, targets: npt.NDArray[np.intp], weights: Array, gains: Array, rows: Mask) -> _Examples:
    """Some of the rows; their weights have a mean of 1."""
    chosen = torch.tensor(weights[rows], dtype=torch.float32)
    gained = torch.tensor(gains[rows], dtype=torch.float32)
    return _Examples(
        torch.tensor(H[rows], dtype=torch.float32), torch.tensor(targets[rows]), chosen / chosen.mean(), gained
    )


def _losses(logits: Tensor, examples: _Examples, smoothing: float) -> Tensor:
    """The loss [n] of each example, 0 where its label is none of the arms."""
    told = nn.functional.cross_entropy(
        logits, examples.targets, ignore_index=-1, label_smoothing=smoothing, reduction="none"
    )
    logged = ~examples.gains.isnan()
    if not logged.any():
        return told
    chosen = torch.softmax(logits, dim=1).gather(1, examples.targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(logged, -examples.gains.nan_to_num() * chosen * (examples.targets >= 0), told)
