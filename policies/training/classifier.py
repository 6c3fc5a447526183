"""Stage 1: the router learns from labelled examples which arm is right."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from policies import checks
from policies.checks import Array, Mask
from policies.training.network import RouterMLP


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of stage 1. An epoch draws as many examples as there are, each arm as often as any other.

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
    seed: int = 0


class EpochReport(NamedTuple):
    """One epoch: training loss, held-out loss, held-out accuracy."""

    epoch: int
    loss: float
    held_out_loss: float
    accuracy: float


class _Examples(NamedTuple):
    H: Tensor
    targets: Tensor


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


def train_classifier(
    H: npt.ArrayLike,
    labels: Sequence[str],
    config: ClassifierConfig,
    progress: Callable[[EpochReport], None] = lambda _: None,
) -> tuple[RouterMLP, dict[str, float]]:
    """Train on features H [n,D] and the arm that is right for each; the best epoch by held-out loss is kept.

    Returns the network and the held-out accuracy and loss. ValueError: fewer than 2 arms, or examples of one.
    """
    features = checks.array("H", H, (len(labels), None))
    arms = sorted(set(labels))
    if len(arms) < 2:
        raise ValueError(f"labels name {arms}, expected at least 2 arms")
    kept, aside = _split(features, labels, arms, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        mlp = RouterMLP(features.shape[1], config.hidden, arms)
        best = _fit(mlp, kept, aside, config, progress)
    return mlp, {"accuracy": best.accuracy, "loss": best.held_out_loss, "epochs": float(best.epoch)}


def _split(features: Array, labels: Sequence[str], arms: list[str], config: ClassifierConfig) -> list[_Examples]:
    targets = np.array([arms.index(label) for label in labels])
    aside = held_out_rows(labels, config)
    return [
        _Examples(torch.tensor(features[rows], dtype=torch.float32), torch.tensor(targets[rows]))
        for rows in (~aside, aside)
    ]


def _fit(
    mlp: RouterMLP,
    kept: _Examples,
    aside: _Examples,
    config: ClassifierConfig,
    progress: Callable[[EpochReport], None],
) -> EpochReport:
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    best, weights = EpochReport(0, np.inf, np.inf, 0.0), copy.deepcopy(mlp.state_dict())
    for epoch in range(1, config.epochs + 1):
        report = EpochReport(epoch, _epoch(mlp, kept, optimizer, criterion, config), *_evaluate(mlp, aside))
        progress(report)
        if report.held_out_loss < best.held_out_loss:
            best, weights = report, copy.deepcopy(mlp.state_dict())
        elif epoch - best.epoch >= config.patience:
            break
    mlp.load_state_dict(weights)
    return best


def _epoch(
    mlp: RouterMLP,
    examples: _Examples,
    optimizer: torch.optim.Optimizer,
    criterion: nn.CrossEntropyLoss,
    config: ClassifierConfig,
) -> float:
    counts = torch.bincount(examples.targets).double()
    order = torch.multinomial(1 / counts[examples.targets], len(examples.targets), replacement=True)
    losses = []
    for rows in torch.split(order, config.batch_size):
        loss: Tensor = criterion(mlp(examples.H[rows]), examples.targets[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _evaluate(mlp: RouterMLP, examples: _Examples) -> tuple[float, float]:
    with torch.inference_mode():
        logits = mlp(examples.H)
    loss = nn.functional.cross_entropy(logits, examples.targets).item()
    return loss, (logits.argmax(dim=1) == examples.targets).double().mean().item()
