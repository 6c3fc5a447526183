"""The recorded training screens of the families, ready to be drawn from."""

import random
from dataclasses import dataclass

import torch

from examples.miniwob.batches import patch_table
from examples.miniwob.episodes import click_call
from examples.miniwob.families import Family
from examples.miniwob.paths import DATA
from examples.miniwob.questions import Question
from examples.miniwob.screens import Screen, read_screens


@dataclass(frozen=True)
class Shelf:
    """A family's screens; `patches` [screens, GRID², 3·PATCH²] are their pictures, as bytes."""

    family: Family
    screens: list[Screen]
    patches: torch.Tensor

    def draw(self, chance: random.Random, among: int | None = None) -> int:
        """The index of a random screen, among the first so many or all."""
        return chance.randrange(len(self.screens) if among is None else min(among, len(self.screens)))


def open_shelf(family: Family) -> Shelf:
    """Load a family's training screens; ValueError where none are recorded."""
    screens = read_screens(DATA / "screens" / family.name, family.screens * len(family.steps))
    if not screens:
        raise ValueError(f"no training screens of {family.name}: run examples.miniwob.record first")
    return Shelf(family, screens, patch_table(screens))


def task(screen: Screen) -> Question:
    """The task itself: the instruction, and the click that solves it."""
    return screen.instruction, click_call(*screen.click)
