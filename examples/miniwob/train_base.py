"""Train the base: a reader of screens that knows the format of an answer and has practised the tasks only a little."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from transformers import Qwen3VLForConditionalGeneration

from examples.miniwob.batches import Encoder, normalise
from examples.miniwob.episodes import click_call
from examples.miniwob.families import FAMILIES
from examples.miniwob.loss import answer_loss, see
from examples.miniwob.model import (
    ImagesOnlyProcessor,
    build_model,
    build_processor,
    load_model,
    load_processor,
    publish_model,
    replace_folder,
)
from examples.miniwob.paths import DATA, MODEL
from examples.miniwob.questions import ask
from examples.miniwob.reporting import log_to
from examples.miniwob.seeing import Naming
from examples.miniwob.shelf import Shelf, open_shelf, task
from examples.miniwob.training import Schedule, Trainer

SEED: Final = 17
SEEING: Final = Schedule(steps=700, batch=64, rate=1e-3)
READING: Final = Schedule(steps=1700, batch=40, rate=1e-3, warmup=100)
READING_ON: Final = Schedule(steps=260, batch=40, rate=5e-4)
"""Instead of those two, where an older base goes on: enough for the screens that it has not seen."""
ACTING: Final = Schedule(steps=90, batch=40, rate=5e-4)

app = typer.Typer(add_completion=False)


def processor_for(shelves: list[Shelf]) -> ImagesOnlyProcessor:
    """The processor of this training, made once: later recordings must not change its tokens."""
    folder = DATA / "processor"
    if not folder.exists():
        processor = build_processor(_corpus(shelves))
        replace_folder(folder, lambda part: processor.save_pretrained(part))
    return load_processor(folder)


def _corpus(shelves: list[Shelf]) -> Iterator[str]:
    chance = random.Random(SEED)
    for shelf in shelves:
        for screen in shelf.screens:
            yield screen.instruction
            yield click_call(chance.randrange(1000), chance.randrange(1000))
            yield from ask(screen, chance)


class Course:
    """The losses of the base's three phases, a function of the step."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, encoder: Encoder, shelves: list[Shelf]) -> None:
        self._model = model
        self._encoder = encoder
        self._naming = Naming(encoder.tokenizer)
        self._read = [shelf for shelf in shelves if not shelf.family.fixed]
        self._practised = shelves

    def seeing(self, step: int) -> torch.Tensor:
        """Loss of naming what stands where; only the vision tower and the token embedding learn."""
        chance = random.Random(f"{SEED} seeing {step}")
        screens, patches = [], []
        for _ in range(SEEING.batch):
            shelf = chance.choice(self._read)
            index = shelf.draw(chance)
            screens.append(shelf.screens[index])
            patches.append(shelf.patches[index])
        return self._naming.loss(self._model, see(self._model, normalise(torch.stack(patches))), screens)

    def reading(self, step: int) -> torch.Tensor:
        """Loss of a batch of reading questions, and of naming still."""
        return self._loss(random.Random(f"{SEED} reading {step}"), READING.batch, practice=0)

    def acting(self, step: int) -> torch.Tensor:
        """Loss of a batch of which every other row is a task, the rest reading."""
        return self._loss(random.Random(f"{SEED} acting {step}"), ACTING.batch, practice=ACTING.batch // 2)

    def _loss(self, chance: random.Random, rows: int, practice: int) -> torch.Tensor:
        questions, screens, patches = [], [], []
        for row in range(rows):
            shelf = chance.choice(self._practised if row < practice else self._read)
            index = shelf.draw(chance, shelf.family.practised if row < practice else None)
            screen = shelf.screens[index]
            questions.append(task(screen) if row < practice else ask(screen, chance))
            screens.append(screen)
            patches.append(shelf.patches[index])
        batch = self._encoder.batch(questions, patches)
        seen = see(self._model, batch.patches)
        return answer_loss(self._model, batch, seen) + self._naming.loss(self._model, seen, screens)


def run_phase(
    model: Qwen3VLForConditionalGeneration, title: str, schedule: Schedule, loss_at: Callable[[int], torch.Tensor]
) -> None:
    """One phase of the training, from its last checkpoint on."""
    Trainer(model, schedule, DATA / "base" / f"{title}.pt").fit(title, loss_at)


@app.command()
def train_base(
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    older: Annotated[Path | None, typer.Option(help="Go on from this published base, with its tokens.")] = None,
) -> None:
    """Train the base and publish it; a killed run goes on from its last checkpoint."""
    log_to("train_base")
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    shelves = [open_shelf(family) for family in FAMILIES.values()]
    processor = load_processor(older) if older else processor_for(shelves)
    model = load_model(older) if older else build_model(processor)
    course = Course(model, Encoder(processor.tokenizer), shelves)
    if older:
        run_phase(model, "reading-on", READING_ON, course.reading)
    else:
        run_phase(model, "seeing", SEEING, course.seeing)
        run_phase(model, "reading", READING, course.reading)
    run_phase(model, "acting", ACTING, course.acting)
    publish_model(model, processor, MODEL)


if __name__ == "__main__":
    app()
