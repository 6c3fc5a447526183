"""What the stages find: with labels, without any, on an unbalanced set, and with adapters that learn along."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.routers.world import World
from cluster.settings import Settings
from examples.miniwob.families import KEPT
from policies.context import ContextMap
from services.training import artifact
from services.training.config import TrainingConfig
from services.training.train import Training

_RARE: Final = 9


class Run(NamedTuple):
    """A trained version, what it chose for the held-out episodes, and what that earns by the outcome table."""

    version: Path
    known: dict[str, Any]
    chosen: list[str]
    success: float


def train(world: World, out: Path, console: Console, **options: Any) -> Run:
    """One run of `pointsman train`."""
    made = Training(Settings(), TrainingConfig.load(None, **options), out, console).run(world.path)
    contexts, kept = ContextMap.load(made.version), artifact.read_examples(made.version)
    assert kept is not None
    gates = contexts.map_batch(kept.H[world.judged])[1]
    chosen = np.array(contexts.arms)[gates.argmax(axis=1)].tolist()
    return Run(made.version, made.known, chosen, world.success(chosen))


def accuracy(world: World, run: Run) -> float:
    """Share of the held-out episodes that get the adapter of their label."""
    right = [world.table.best_own(world.episodes[i].family) for i in world.judged]
    return float(np.mean([arm == label for arm, label in zip(run.chosen, right, strict=True)]))


def unbalanced(folder: Path, out: Path, console: Console, **options: Any) -> dict[str, Any]:
    """Stage 1 on a set with one family twenty times as frequent, balanced and not: recall of the others, alarms.

    Both end after the same few epochs, as a training does that has no time to waste on what is rare. Judged on the
    set's own held-out seeds, of which the other families have few; so their recall is a mean over all.
    """
    often = "click-tab"
    seeds = dict.fromkeys(KEPT, _RARE) | {often: 20 * _RARE}
    world = World.make(folder / "unbalanced.jsonl", seeds)
    found = {}
    for name, balanced in (("on", True), ("off", False)):
        briefly = {"epochs": 8, "patience": 8, "batch_size": 16}
        run = train(world, out, console, balanced=balanced, stages=(1,), measured=0, classifier=briefly, **options)
        recall = run.known["stages"][0]["rounds"][run.known["stages"][0]["kept"] - 1]["recall"]
        others = [value for label, value in recall.items() if not label.startswith(often)]
        found[name] = {
            "rare_recall": float(np.mean(others)),
            "often_use": run.known["stages"][0]["rounds"][-1]["use"][often],
            "alarms": run.known["alarms"],
        }
    return found
