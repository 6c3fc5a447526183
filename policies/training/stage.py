"""What the stages of training have in common: rounds, of which the best is kept, and a state to go on from."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch

from policies.training.collapse import Health
from policies.training.network import RouterMLP


class Round(NamedTuple):
    """One round: the training loss, the loss on held-out examples, and how their gates are spread."""

    number: int
    loss: float
    held_out_loss: float
    health: Health


class Stage(ABC):
    """A loop that can be left after any round and gone on with from its `state`, with the same result.

    What is drawn depends on the seed and the round alone, never on a generator that goes on.
    """

    name: str
    mlp: RouterMLP

    @property
    @abstractmethod
    def rounds(self) -> int:
        """The most rounds that there may be."""

    @property
    @abstractmethod
    def history(self) -> list[Round]:
        """The rounds so far, from 1; number 0 is what a stage started from, where that may be kept."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is no round left to do."""

    @abstractmethod
    def advance(self) -> Round:
        """Do one round."""

    @abstractmethod
    def keep_best(self) -> Round:
        """Return to the weights of the best round; which that was."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that the next round depends on: tensors, numbers, text, and lists and dicts of them."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same stage."""


def generator(seed: int, stage: str, number: int) -> torch.Generator:
    """The chances of one round."""
    mixed = int.from_bytes(f"{stage} {seed} {number}".encode(), "big") % (2**61 - 1)
    return torch.Generator().manual_seed(mixed)


def plain(rounds: list[Round]) -> list[Any]:
    """Rounds as lists and dicts."""
    return [[one.number, one.loss, one.held_out_loss, one.health._asdict()] for one in rounds]


def from_plain(rounds: list[Any]) -> list[Round]:
    """What `plain` gave."""
    return [Round(number, loss, held_out, Health(**health)) for number, loss, held_out, health in rounds]
