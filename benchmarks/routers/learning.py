"""What the stages find: with labels, without any, on an unbalanced set, and with adapters that learn along."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from rich.console import Console

from benchmarks.routers.world import World
from cluster.settings import Settings
from examples.miniwob.episodes import Episode
from examples.miniwob.families import KEPT
from examples.miniwob.labelled import row, write
from examples.miniwob.outcomes import Outcomes
from policies.checks import Array
from policies.context import ContextMap
from policies.training.network import RouterMLP
from services.adapters.registry import BASE
from services.configuration import feature_spec, make_registry
from services.engines import make_engine
from services.training import examples
from services.training.config import TrainingConfig
from services.training.features import features
from services.training.measure import Measuring
from services.training.train import CACHE, Trained, Training

RARE: Final = 9
OFTEN: Final = "click-tab"
_CHOICES: Final = "choices.json"


class Run(NamedTuple):
    """A trained version, the choices for the unseen episodes, of the version and of each stage as it ended, and the
    adapters that a stage trained along."""

    version: Path
    known: dict[str, Any]
    kept: list[str]
    raw: dict[str, list[str]]
    adapters: dict[str, Path]


class Trainer:
    """Runs `pointsman train` into one folder: features are computed once, and what is there is not done again."""

    def __init__(self, folder: Path, console: Console, seed: int) -> None:
        self._folder = folder
        self._out = folder / "routers"
        self._console = console
        self._seed = seed
        self._table = Outcomes.load()
        self._spec = feature_spec(Settings())

    def train(self, world: World, **options: Any) -> Run:
        """One run, and what its routers choose for what they have not seen."""
        config = TrainingConfig.load(None, seed=self._seed, **options)
        made = Training(Settings(), config, self._out, self._console).run(world.path)
        folder = self._folder / made.known["run"]
        if not made.found:
            self._keep(folder, made, self.features(world.unseen))
        document = json.loads((folder / _CHOICES).read_text())
        adapters = {stage: folder / stage for stage in document["raw"] if (folder / stage).is_dir()}
        return Run(made.version, made.known, document["kept"], document["raw"], adapters)

    def _keep(self, folder: Path, made: Trained, H: Array) -> None:
        """What the artifact does not have: how each stage ended."""
        contexts = ContextMap.load(made.version)
        kept = np.array(contexts.arms)[contexts.map_batch(H)[1].argmax(axis=1)].tolist()
        folder.mkdir()
        for course in made.courses:
            if course.adapters is not None:
                course.adapters(folder / course.stage)
        raw = {course.stage: choices(course.mlp, H) for course in made.courses}
        (folder / _CHOICES).write_text(json.dumps({"kept": kept, "raw": raw}))

    def features(self, episodes: Sequence[Episode]) -> Array:
        """H [n,D], as the service would log them."""
        return features(
            self.examples(episodes), self._spec, self._out / CACHE, lambda: closing(make_engine(Settings()))
        )

    def examples(self, episodes: Sequence[Episode]) -> list[examples.Example]:
        """Episodes as training reads them."""
        path = self._folder / "asked.jsonl"
        write(path, [row(episode, self._table) for episode in episodes])
        return examples.read(path)


@torch.no_grad()
def choices(mlp: RouterMLP, H: Array) -> list[str]:
    """The first choice of a network for each of the features."""
    top = mlp(torch.tensor(H, dtype=torch.float32)).argmax(dim=1).numpy()
    return [mlp.arms[arm] for arm in top.tolist()]


def accuracy(world: World, chosen: Sequence[str]) -> float:
    """Share of the unseen episodes that get the adapter of their label."""
    return float(np.mean([arm == label for arm, label in zip(chosen, world.own(), strict=True)]))


def found(world: World, chosen: Sequence[str]) -> dict[str, float]:
    """Share of each family's unseen episodes that get an adapter which was trained for the family."""
    own = [arm.removesuffix("-b") == family for arm, family in zip(chosen, world.families, strict=True)]
    return world.by_family(np.array(own, np.float64))


def answered(trainer: Trainer, world: World, run: Run, every: int) -> dict[str, float]:
    """Success of real answers to every n-th unseen episode under the router that each stage ended with."""
    asked, paths = trainer.examples(world.unseen[::every]), make_registry(Settings()).paths
    success = {}
    for stage, chosen in run.raw.items():
        own = {path.name: path for path in run.adapters[stage].iterdir()} if stage in run.adapters else {}
        with closing(make_engine(Settings(), paths | own)) as made:
            gates = [{} if arm == BASE else {arm: 1.0} for arm in chosen[::every]]
            success[stage] = float(Measuring(made, 24).success(asked, gates).mean())
    return success


def unbalanced(trainer: Trainer, folder: Path, unseen: int) -> dict[str, Any]:
    """Stage 1 on a set with one family twenty times as frequent: recall of the others on unseen episodes, alarms.

    Balanced or not, each ends after the same few epochs; "long" is not balanced and ends by itself.
    """
    world = World.make(folder / "unbalanced.jsonl", dict.fromkeys(KEPT, RARE) | {OFTEN: 20 * RARE}, unseen)
    briefly = {"epochs": 8, "batch_size": 16}
    told = {}
    for name, balanced, classifier in (("on", True, briefly), ("off", False, briefly), ("long", False, {})):
        run = trainer.train(world, balanced=balanced, stages=(1,), measured=0, classifier=classifier)
        right = np.array([arm == label for arm, label in zip(run.kept, world.own(), strict=True)], np.float64)
        recall = world.by_family(right)
        told[name] = {
            "rare_recall": float(np.mean([value for family, value in recall.items() if family != OFTEN])),
            "often_chosen": float(np.mean([arm.startswith(OFTEN) for arm in run.kept])),
            "epochs": len(run.known["stages"][0]["rounds"]),
            "alarms": run.known["alarms"],
        }
    return told
