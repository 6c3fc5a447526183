"""Feedback as data: the router trained again from the decision log, and judged off-policy before it is activated."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from rich.console import Console

from cluster.settings import Settings
from policies.checks import Array, Mask
from policies.context import ContextMap
from policies.training.artifact import fit_context_map
from policies.training.classifier import Classifier, ClassifierConfig
from policies.training.collapse import alarms
from services.adapters.registry import Registry
from services.configuration import learning_config
from services.insight import export
from services.insight.evaluation import Evaluator, PolicyEvaluation, from_file
from services.training import artifact, report, running
from services.training.artifact import Supervised
from services.training.checkpoints import Checkpoints
from services.training.config import TrainingConfig
from services.training.examples import InvalidData
from services.training.stages import Course
from services.training.train import RUNS, Trained, calibrated

_FEW: Final = 50
"""Rewarded units below which a log teaches nothing."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a log teaches: the decision in each row with the arm that served, in the order of the log.

    weights [n]: 1 over the propensity of the row's whole unit (a decision by itself, or an episode), cut off and shared
    among its decisions. rewards [n] of the unit. aside [n]: of the last units, which nothing is learned from. `judged`
    is the log from the first of these on, with all that cannot be learned from: estimates need every decision.
    """

    H: Array
    arms: list[str]
    weights: Array
    rewards: Array
    aside: Mask
    judged: pa.Table

    @property
    def baseline(self) -> float:
        """The usual reward, by the weights."""
        kept = ~self.aside
        return float((self.weights * self.rewards)[kept].sum() / self.weights[kept].sum())


def read(path: Path, known: Sequence[str], size: int, *, clip: float, share: float) -> Lessons:
    """The lessons of an exported log for the arms that are `known`, with features of `size` bytes.

    Left out are units with a decision that had no reward, no choice or no propensity, or whose arm is not known:
    mixtures, and adapters that are gone. Raises InvalidData: fewer than 50 units are left.
    """
    table = asyncio.run(_table(path))
    rows = table.select(["id", "episode", "arm", "propensity", "eligible", "status", "reward"]).to_pylist()
    sizes = [len(features or b"") for features in table["features"].to_pylist()]
    units: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row["status"] != "cancelled":
            units.setdefault(row["episode"] or f"decision {row['id']}", []).append(i)
    faults = [_fault([rows[i] for i in unit], [sizes[i] for i in unit], known, size) for unit in units.values()]
    usable = [unit for unit, fault in zip(units.values(), faults, strict=True) if not fault]
    if len(usable) < _FEW:
        said = "".join(f"; {n} {fault}" for fault, n in Counter(faults).most_common() if fault)
        few = f"{len(usable)} of {len(units)} units can be learned from, expected at least {_FEW}"
        raise InvalidData(f"{path}: {few}{said}")
    return _lessons(table, rows, list(units.values()), usable, clip, share)


def _fault(unit: Sequence[dict[str, Any]], sizes: Sequence[int], known: Sequence[str], size: int) -> str:
    """Why a unit teaches nothing; empty if it does."""
    if any(row["reward"] is None for row in unit):
        return "without a reward"
    if any(len(row["eligible"]) < 2 or not row["propensity"] for row in unit):
        return "without a choice or its propensity"
    if other := [each for each in sizes if each != size]:
        return f"with features of {other[0] // 2} numbers, expected {size // 2} as the router's"
    if unknown := [row["arm"] for row in unit if row["arm"] not in known]:
        return f"served by {unknown[0]}, which is no adapter of model.adapters"
    return ""


def _lessons(
    table: pa.Table,
    rows: list[dict[str, Any]],
    all_units: Sequence[Sequence[int]],
    units: Sequence[Sequence[int]],
    clip: float,
    share: float,
) -> Lessons:
    order = [i for unit in units for i in unit]
    first_aside = len(units) - max(1, round(share * len(units)))
    weights, rewards, aside = [], [], []
    for number, unit in enumerate(units):
        propensity = float(np.prod([rows[i]["propensity"] for i in unit]))
        reward = float(np.mean([rows[i]["reward"] for i in unit]))
        weights += [min(clip, 1 / propensity) / len(unit)] * len(unit)
        rewards += [reward] * len(unit)
        aside += [number >= first_aside] * len(unit)
    chosen = table.take(order)
    judging = all_units[all_units.index(units[first_aside]) :]
    judged = table.take([i for unit in judging for i in unit])
    H = np.stack([np.frombuffer(features, np.float16) for features in chosen["features"].to_pylist()])
    arms = [rows[i]["arm"] for i in order]
    return Lessons(
        H.astype(np.float64), arms, np.array(weights), np.array(rewards), np.array(aside, dtype=bool), judged
    )


class FromLog:
    """One run of `pointsman train --from-log`."""

    def __init__(self, settings: Settings, config: TrainingConfig, out: Path, console: Console) -> None:
        self._settings = settings
        self._config = config
        self._out = out
        self._console = console
        self._registry = Registry(settings.model.adapters)
        self._before = ContextMap.load(settings.router.path)
        self._examples = artifact.read_examples(settings.router.path)

    def run(self, log: Path) -> Trained:
        """Train on the log and on what the router of the settings was trained on, if that was kept with it."""
        if not log.is_file():
            raise InvalidData(f"{log}: no such file, expected one of `pointsman export`")
        run = self._config.fingerprint(file_hash(log), self._before.fingerprint)
        if (found := artifact.of_run(self._out, run)) is not None:
            return Trained(found, artifact.document(found), found=True)
        size = 2 * self._before.input_dimension
        clip, share = self._config.clip, self._config.held_out
        lessons = read(log, self._registry.arms, size, clip=clip, share=share)
        course = self._learn(lessons, Checkpoints(self._out / RUNS, run))
        return self._keep(lessons, course, {"run": run, "data": file_hash(log)})

    def _learn(self, lessons: Lessons, checkpoints: Checkpoints) -> Course:
        """Labelled examples weigh 1 each, the log's as much together as there are of them."""
        told = self._supervised(lessons)
        n = len(lessons.arms)
        weights = np.concatenate([np.ones(len(told.labels) - n), lessons.weights / lessons.weights.mean()])
        gains = np.concatenate([np.full(len(told.labels) - n, np.nan), lessons.rewards - lessons.baseline])
        labels = [*told.labels[:-n], *lessons.arms]
        stage = Classifier(told.H, labels, self._classifier(), aside=told.aside, weights=weights, advantages=gains)
        kept = running.run(stage, checkpoints, self._console)
        return Course(stage.name, stage.history, kept, stage.mlp)

    def _supervised(self, lessons: Lessons) -> Supervised:
        """The labelled examples, then the log's rows without a label: which arm served is not which one is right.

        Nor are its rewards outcomes: the Learner folds them into the evidence, and nothing may count twice.
        """
        n, H, aside = len(lessons.arms), lessons.H, lessons.aside
        old = self._examples
        if old is None:
            return Supervised(H, ("",) * n, (), np.zeros((n, 0)), aside)
        known = [i for i, label in enumerate(old.labels) if label in self._registry.arms]
        outcomes = np.vstack([old.outcomes[known], np.full((n, len(old.arms)), np.nan)])
        return Supervised(
            np.vstack([old.H[known], H]),
            (*(old.labels[i] for i in known), *[""] * n),
            old.arms,
            outcomes,
            np.concatenate([old.aside[known], aside]),
        )

    def _classifier(self) -> ClassifierConfig:
        config = self._config
        return ClassifierConfig(hidden=config.hidden, seed=config.seed, **config.classifier.model_dump())

    def _keep(self, lessons: Lessons, course: Course, known: dict[str, Any]) -> Trained:
        told = self._supervised(lessons)
        calibration = calibrated(course.mlp, told)
        contexts = fit_context_map(
            course.mlp,
            told.H,
            told.labels,
            ClassifierConfig(seed=self._config.seed),
            pca=min(self._config.components, *told.H.shape),
            temperature=calibration.temperature if calibration else 1.0,
            outcomes=told.outcomes,
            outcome_arms=told.arms,
            learning=learning_config(self._settings),
            features=self._before.features,
            aside=told.aside,
        )
        document = {
            **known,
            "arms": list(course.mlp.arms),
            "adapters": {adapter.name: adapter.fingerprint for adapter in self._registry},
            "features": dict(self._before.features),
            "config": self._config.model_dump(mode="json"),
            "calibration": calibration._asdict() if calibration else None,
            "metrics": dict(contexts.metrics),
            "stages": [course.document],
            "kept": course.stage,
            "decisions": [],
            "recommendation": None,
            "evaluation": self._judged(lessons, contexts),
            "alarms": alarms(course.kept.health),
        }
        labelled = len(told.labels) - len(lessons.arms)
        examples = Supervised(
            told.H[:labelled], told.labels[:labelled], told.arms, told.outcomes[:labelled], told.aside[:labelled]
        )

        def fill(folder: Path) -> None:
            report.write(folder, {**document, "router": contexts.fingerprint})

        version = artifact.write(self._out, contexts, examples, document, fill)
        return Trained(version, artifact.document(version), found=False)

    def _judged(self, lessons: Lessons, after: ContextMap) -> dict[str, Any]:
        """What both routers would have earned on the last part of the log, which neither was trained on here."""
        old, new = (self._evaluated(lessons.judged, contexts) for contexts in (self._before, after))
        told = old.refused is None and new.refused is None
        better = told and new.estimates["snips"].value >= old.estimates["snips"].value
        return {"before": old.model_dump(), "after": new.model_dump(), "better": better if told else None}

    def _evaluated(self, table: pa.Table, contexts: ContextMap) -> PolicyEvaluation:
        async def batches() -> AsyncIterator[pa.RecordBatch]:
            for batch in table.to_batches():
                yield batch

        (found,) = asyncio.run(Evaluator.of(self._settings, contexts).evaluate(batches(), ["mlp"]))
        return found


def file_hash(file: Path) -> str:
    """16 hex digits of a file's contents. OSError: there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


async def _table(path: Path) -> pa.Table:
    return pa.Table.from_batches([batch async for batch in from_file(path)], schema=export.SCHEMA)
