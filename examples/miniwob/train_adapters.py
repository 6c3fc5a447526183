"""Train one LoRA a family on the published base; the vision tower stays the base's."""

import random
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from examples.miniwob.batches import Encoder, normalise
from examples.miniwob.families import FAMILIES, KEPT
from examples.miniwob.loss import answer_loss, see
from examples.miniwob.model import load_processor, replace_folder
from examples.miniwob.paths import ADAPTERS, DATA, MODEL, ROOT
from examples.miniwob.reporting import log_to
from examples.miniwob.shelf import Shelf, open_shelf, task
from examples.miniwob.training import Schedule, Trainer

SEED: Final = 29
BATCH: Final = 48
RATE: Final = 3e-3
BASE_NAME: Final = MODEL.relative_to(ROOT.parents[1]).as_posix()
"""How an adapter names its base: where it is in the repository, not on this machine."""

app = typer.Typer(add_completion=False)


def lora() -> LoraConfig:
    """A small LoRA on all seven projections of every layer of the language model, none in the vision tower."""
    projections = r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    return LoraConfig(r=8, lora_alpha=16, target_modules=projections, task_type="CAUSAL_LM")


class Lesson:
    """A family's loss as a function of the step; the frozen vision tower looks at each screen only once."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, encoder: Encoder, shelf: Shelf) -> None:
        self._model = model
        self._encoder = encoder
        self._shelf = shelf
        self._pooled, self._deep = _see_all(model, shelf)

    def loss(self, step: int) -> torch.Tensor:
        """Loss of a batch of the family's tasks."""
        chance = random.Random(f"{SEED} {self._shelf.family.name} {step}")
        indices = [self._shelf.draw(chance) for _ in range(BATCH)]
        batch = self._encoder.batch(
            [task(self._shelf.screens[index]) for index in indices], [self._shelf.patches[index] for index in indices]
        )
        seen = BaseModelOutputWithDeepstackFeatures(
            pooler_output=(self._pooled[indices].flatten(0, 1),),
            deepstack_features=[(layer[indices].flatten(0, 1),) for layer in self._deep],
        )
        return answer_loss(self._model, batch, seen)


@torch.no_grad()
def _see_all(model: Qwen3VLForConditionalGeneration, shelf: Shelf) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The vision tower's features of every screen: pooled [screens, tokens, width], and so for each deep layer."""
    looks = [see(model, normalise(patches)) for patches in torch.split(shelf.patches, 64)]
    pooled = torch.stack([image for look in looks for image in look.pooler_output])
    layers = range(len(looks[0].deepstack_features))
    deep = [torch.stack([image for look in looks for image in look.deepstack_features[layer]]) for layer in layers]
    return pooled, deep


def publish_adapter(model: PeftModel, family: str) -> None:
    """Save the adapter alone, in float16."""

    def write(part: Path) -> None:
        weights = {name: weight for name, weight in model.state_dict().items() if "lora_" in name}
        half = {name: weight.to(torch.float16) for name, weight in weights.items()}
        model.peft_config["default"].base_model_name_or_path = BASE_NAME
        model.save_pretrained(str(part), state_dict=half)
        (part / "README.md").unlink()

    replace_folder(ADAPTERS / family, write)


def train_adapter(family: str) -> None:
    """Train and publish one family's adapter, from its last checkpoint on."""
    torch.manual_seed(SEED)
    base = Qwen3VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    encoder = Encoder(load_processor(MODEL).tokenizer)
    shelf = open_shelf(FAMILIES[family])
    lesson = Lesson(base, encoder, shelf)
    schedule = Schedule(shelf.family.adapter_steps, BATCH, RATE)
    adapted = get_peft_model(base, lora())
    Trainer(adapted, schedule, DATA / "adapters" / f"{family}.pt").fit(family, lesson.loss)
    publish_adapter(adapted, family)


@app.command()
def train_adapters(
    families: Annotated[str, typer.Option(help="Comma-separated families.")] = ",".join(KEPT),
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train the families' adapters one after another; done ones are skipped, a killed one goes on."""
    log_to("train_adapters")
    torch.set_num_threads(threads)
    for family in families.split(","):
        if not (ADAPTERS / family).exists():
            train_adapter(family)


if __name__ == "__main__":
    app()
