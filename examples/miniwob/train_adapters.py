"""Train the LoRAs on the published base; the vision tower stays the base's."""

import random
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from examples.miniwob.batches import Encoder, normalise
from examples.miniwob.families import FAMILIES
from examples.miniwob.loss import answer_loss, see
from examples.miniwob.model import load_model, load_processor, replace_folder
from examples.miniwob.paths import ADAPTERS, COMPARISONS, DATA, MODEL, ROOT, WORSE
from examples.miniwob.recipes import ONE_FOR_ALL, RECIPES, Recipe
from examples.miniwob.reporting import log_to
from examples.miniwob.shelf import Shelf, open_shelf, task
from examples.miniwob.training import Schedule, Trainer

BATCH: Final = 32
RATE: Final = 3e-3
BASE_NAME: Final = MODEL.relative_to(ROOT.parents[1]).as_posix()
"""How an adapter names its base: where it is in the repository, not on this machine."""

app = typer.Typer(add_completion=False)


class Lesson:
    """A recipe's loss as a function of the step; the frozen vision tower looks at each screen only once."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, encoder: Encoder, recipe: Recipe) -> None:
        self._model = model
        self._encoder = encoder
        self._recipe = recipe
        self._shelves = [open_shelf(FAMILIES[family]) for family in recipe.families]
        self._looks = [_see_all(model, shelf) for shelf in self._shelves]

    def loss(self, step: int) -> torch.Tensor:
        """Loss of a batch of tasks, each of a random family of the recipe's."""
        chance = random.Random(f"{self._recipe.seed} {self._recipe.name} {step}")
        drawn = []
        for _ in range(BATCH):
            of = chance.randrange(len(self._shelves))
            drawn.append((of, self._shelves[of].draw(chance)))
        batch = self._encoder.batch(
            [task(self._shelves[of].screens[index]) for of, index in drawn],
            [self._shelves[of].patches[index] for of, index in drawn],
        )
        pooled, *deep = (
            torch.cat([self._looks[of][layer][index] for of, index in drawn]) for layer in range(len(self._looks[0]))
        )
        seen = BaseModelOutputWithDeepstackFeatures(
            pooler_output=(pooled,), deepstack_features=[(layer,) for layer in deep]
        )
        return answer_loss(self._model, batch, seen)


@torch.no_grad()
def _see_all(model: Qwen3VLForConditionalGeneration, shelf: Shelf) -> list[torch.Tensor]:
    """The vision tower's features [screens, tokens, width] of every screen: pooled first, then each deep layer."""
    looks = [see(model, normalise(patches)) for patches in torch.split(shelf.patches, 64)]
    pooled = torch.stack([image for look in looks for image in look.pooler_output])
    layers = range(len(looks[0].deepstack_features))
    deep = [torch.stack([image for look in looks for image in look.deepstack_features[layer]]) for layer in layers]
    return [pooled, *deep]


def publish_adapter(model: PeftModel, folder: Path) -> None:
    """Save the adapter alone, in float16."""

    def write(part: Path) -> None:
        weights = {name: weight for name, weight in model.state_dict().items() if "lora_" in name}
        half = {name: weight.to(torch.float16) for name, weight in weights.items()}
        model.peft_config["default"].base_model_name_or_path = BASE_NAME
        model.save_pretrained(str(part), state_dict=half)
        (part / "README.md").unlink()

    replace_folder(folder, write)


def train_adapter(recipe: Recipe, folder: Path) -> None:
    """Train an adapter, from its last checkpoint on, and publish it in `folder`, a worse version of it in `WORSE`."""
    torch.manual_seed(recipe.seed)
    base = load_model(MODEL)
    lesson = Lesson(base, Encoder(load_processor(MODEL).tokenizer), recipe)
    lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=recipe.targets, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, lora)
    trainer = Trainer(adapted, Schedule(recipe.steps, BATCH, RATE), DATA / "adapters" / f"{recipe.name}.pt")
    if recipe.worse_at and trainer.step <= recipe.worse_at:
        trainer.fit(recipe.name, lesson.loss, until=recipe.worse_at)
        publish_adapter(adapted, WORSE / recipe.name)
    trainer.fit(recipe.name, lesson.loss)
    publish_adapter(adapted, folder)


def folder_of(recipe: Recipe) -> Path:
    """Where the recipe's adapter is published."""
    return (COMPARISONS if recipe == ONE_FOR_ALL else ADAPTERS) / recipe.name


@app.command()
def train_adapters(
    names: Annotated[str, typer.Option(help="Comma-separated adapters.")] = ",".join([*RECIPES, ONE_FOR_ALL.name]),
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train the adapters one after another; done ones are skipped, a killed one goes on."""
    log_to("train_adapters")
    torch.set_num_threads(threads)
    recipes = {**RECIPES, ONE_FOR_ALL.name: ONE_FOR_ALL}
    for name in names.split(","):
        if not folder_of(recipes[name]).exists():
            train_adapter(recipes[name], folder_of(recipes[name]))


if __name__ == "__main__":
    app()
