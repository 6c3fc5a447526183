"""From examples to a version of a router: features, the stages, calibration, and everything that is kept of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from cluster.settings import Settings
from policies.checks import Array
from policies.context import ContextMap
from policies.training.artifact import fit_context_map
from policies.training.calibration import Calibration, calibrate
from policies.training.classifier import Classifier, ClassifierConfig
from policies.training.collapse import alarms
from policies.training.network import RouterMLP
from policies.training.stage import Round
from services.configuration import learning_config, make_registry
from services.training import artifact, examples, running
from services.training.artifact import Supervised
from services.training.checkpoints import Checkpoints
from services.training.config import TrainingConfig
from services.training.engines import engine
from services.training.examples import Example, InvalidData
from services.training.features import Engines, FeatureSpec, features, weights_hash

RUNS = ".runs"
CACHE = ".features.sqlite"


class Trained(NamedTuple):
    """A version of a router, and whether it was there already."""

    version: Path
    known: dict[str, Any]
    found: bool


class Course(NamedTuple):
    """A stage as it went: its rounds, and the one that was kept."""

    stage: str
    rounds: list[Round]
    kept: Round


class Training:
    """One run of `pointsman train`."""

    def __init__(
        self, settings: Settings, config: TrainingConfig, out: Path, console: Console, engines: Engines | None = None
    ) -> None:
        """`engines` gives what computes features, by default the service's own engine."""
        self._engines = engines or (lambda: engine(settings, {}))
        self._settings = settings
        self._config = config
        self._out = out
        self._console = console
        self._registry = make_registry(settings)
        model = settings.model
        self._spec = FeatureSpec(weights_hash(model.path), model.dtype, model.encode_blocks)

    def run(self, data: Path) -> Trained:
        """Train on a file, or find the version that the same run has made. Raises InvalidData, ValueError."""
        rows = examples.divide(examples.read(data), self._config.held_out, self._config.seed)
        self._check_arms(rows)
        told = examples.data_hash(rows)
        run = self._config.fingerprint(told, repr(self._spec), *self._versions())
        if (found := artifact.of_run(self._out, run)) is not None:
            return Trained(found, artifact.document(found), found=True)
        H = self._features(rows)
        course, mlp = self._stage1(rows, H, Checkpoints(self._out / RUNS, run))
        return self._keep(rows, H, mlp, [course], {"run": run, "data": told})

    def _versions(self) -> list[str]:
        """What the adapters are, by name."""
        return [f"{adapter.name} {adapter.fingerprint}" for adapter in self._registry]

    def _check_arms(self, rows: Sequence[Example]) -> None:
        """A mixture may have outcomes, which become its prior, but is no adapter that could be right."""
        arms = self._registry.arms
        adapters = tuple(arm for arm in arms if arm not in self._registry.mixtures)
        for e in rows:
            for arm, known in [*([(e.label, adapters)] if e.label else []), *((arm, arms) for arm in e.outcomes)]:
                if arm not in known:
                    expected = ", ".join(known)
                    raise InvalidData(f"row {e.row}: adapter {arm!r} is unknown, expected one of {expected}")

    def _features(self, rows: Sequence[Example]) -> Array:
        with running.bar(self._console, "features", len(rows)) as update:
            done = 0

            def advance(more: int) -> None:
                nonlocal done
                done += more
                update(done, "")

            return features(rows, self._spec, self._out / CACHE, self._engines, advance)

    def _stage1(self, rows: Sequence[Example], H: Array, checkpoints: Checkpoints) -> tuple[Course, RouterMLP]:
        labelled = [i for i, e in enumerate(rows) if e.label]
        if not labelled:
            raise InvalidData("no row names an adapter, expected labels for stage 1")
        aside = np.array([rows[i].is_held_out for i in labelled])
        stage = Classifier(H[labelled], [rows[i].label for i in labelled], self._classifier(), aside=aside)
        kept = running.run(stage, checkpoints, self._console)
        return Course(stage.name, stage.history, kept), stage.mlp

    def _classifier(self) -> ClassifierConfig:
        config = self._config
        return ClassifierConfig(
            hidden=config.hidden,
            held_out=config.held_out,
            balanced=config.balanced,
            seed=config.seed,
            **config.classifier.model_dump(),
        )

    def _keep(
        self, rows: Sequence[Example], H: Array, mlp: RouterMLP, courses: Sequence[Course], known: dict[str, Any]
    ) -> Trained:
        supervised = _supervised(rows, H)
        calibration = calibrated(mlp, supervised)
        contexts = self._contexts(mlp, supervised, [e.task for e in rows], calibration)
        kept = courses[-1].kept
        document = {
            **known,
            "arms": list(mlp.arms),
            "adapters": {adapter.name: adapter.fingerprint for adapter in self._registry},
            "features": self._spec.document,
            "config": self._config.model_dump(mode="json"),
            "calibration": calibration._asdict() if calibration else None,
            "metrics": dict(contexts.metrics),
            "stages": [_told(course) for course in courses],
            "alarms": alarms(kept.health),
        }
        version = artifact.write(self._out, contexts, supervised.sample(self._config.seed), document)
        return Trained(version, artifact.document(version), found=False)

    def _contexts(
        self, mlp: RouterMLP, supervised: Supervised, tasks: Sequence[str], calibration: Calibration | None
    ) -> ContextMap:
        metrics = {"ece": calibration.ece_after} if calibration else {}
        return fit_context_map(
            mlp,
            supervised.H,
            supervised.labels,
            self._classifier(),
            pca=min(self._config.components, *supervised.H.shape),
            temperature=calibration.temperature if calibration else 1.0,
            outcomes=supervised.outcomes,
            outcome_arms=supervised.arms,
            learning=learning_config(self._settings),
            features=self._spec.document,
            metrics=metrics,
            tasks=tasks if any(tasks) else supervised.labels,
            aside=supervised.aside,
        )


def calibrated(mlp: RouterMLP, supervised: Supervised) -> Calibration | None:
    """On the held-out examples of the arms that the network knows; None where there are none."""
    told = [i for i, label in enumerate(supervised.labels) if supervised.aside[i] and label in mlp.arms]
    if not told:
        return None
    with torch.no_grad():
        logits = mlp(torch.tensor(supervised.H[told], dtype=torch.float32)).double().numpy()
    return calibrate(logits, np.array([mlp.arms.index(supervised.labels[i]) for i in told]))


def _supervised(rows: Sequence[Example], H: Array) -> Supervised:
    arms = sorted({arm for e in rows for arm in e.outcomes})
    outcomes = np.array([[e.outcomes.get(arm, np.nan) for arm in arms] for e in rows]).reshape(len(rows), len(arms))
    aside = np.array([e.is_held_out for e in rows])
    return Supervised(H, tuple(e.label for e in rows), tuple(arms), outcomes, aside)


def _told(course: Course) -> dict[str, Any]:
    rounds = [
        {"number": r.number, "loss": r.loss, "held_out_loss": r.held_out_loss, **r.health._asdict()}
        for r in course.rounds
    ]
    return {"stage": course.stage, "kept": course.kept.number, "rounds": rounds}
