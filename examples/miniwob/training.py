"""The training loop that base and adapters share: seeded by step, so a killed run goes on as if it had not been."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from examples.miniwob.reporting import progress_bar

log = logging.getLogger("train")

CHECKPOINT_EVERY: Final = 60.0
"""Seconds between checkpoints: the most work that a kill can lose."""
LOG_EVERY: Final = 20
"""Steps between lines of the log."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn: linear warm-up to `rate`, then a cosine down to a twentieth of it."""

    steps: int
    batch: int
    rate: float
    warmup: int = 50

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, 0-based."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        past = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.05 + 0.95 * (1 + math.cos(math.pi * past)) / 2)


class Trainer:
    """Fits a module's trainable parameters to a loss that depends on the step alone, with checkpoints in one file.

    Products run in bfloat16, a quarter faster on CPUs that have it; weights, and what is saved, stay float32.
    """

    def __init__(self, module: nn.Module, schedule: Schedule, checkpoint: Path) -> None:
        self._weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._optimizer = torch.optim.AdamW(self._weights.values(), betas=(0.9, 0.98), weight_decay=0.01)
        self._schedule = schedule
        self._checkpoint = checkpoint
        self._step = 0
        if checkpoint.exists():
            self._resume()

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    def fit(self, title: str, loss_at: Callable[[int], torch.Tensor], until: int | None = None) -> None:
        """Run the steps that are left, or those before `until`, then keep the last checkpoint."""
        saved, last = time.monotonic(), self._schedule.steps if until is None else until
        with progress_bar(title, last, self._step) as advance:
            while self._step < last:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_at(self._step)
                value = self._update(loss)
                self._step += 1
                advance(f"loss {value:.3f}")
                if self._step % LOG_EVERY == 0:
                    log.info("%s step %d loss %.4f", title, self._step, value)
                if time.monotonic() - saved > CHECKPOINT_EVERY:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def _update(self, loss: torch.Tensor) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate_at(self._step)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        self._optimizer.step()
        return loss.item()

    def _save(self) -> None:
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self._checkpoint.with_suffix(".part")
        weights = {name: weight.detach() for name, weight in self._weights.items()}
        torch.save({"step": self._step, "weights": weights, "optimizer": self._optimizer.state_dict()}, part)
        part.rename(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        self._step = state["step"]
        self._optimizer.load_state_dict(state["optimizer"])
        restore(self._weights, state["weights"])


def restore(weights: dict[str, nn.Parameter], saved: dict[str, torch.Tensor]) -> None:
    """Copy saved weights into parameters of the same names; ValueError names what does not match."""
    if weights.keys() != saved.keys():
        raise ValueError(f"checkpoint and model differ in {sorted(weights.keys() ^ saved.keys())[:5]}")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
