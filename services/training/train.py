"""From examples to a version of a router: features, the stages, calibration, and everything that is kept of it."""

from collections.abc import Sequence
from contextlib import closing
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
from policies.training.classifier import ClassifierConfig
from policies.training.collapse import alarms
from policies.training.network import RouterMLP
from services.configuration import feature_spec, learning_config, make_registry
from services.engines import make_engine
from services.training import artifact, examples, report, running
from services.training.artifact import Supervised
from services.training.checkpoints import Checkpoints
from services.training.comparing import Comparison
from services.training.config import TrainingConfig
from services.training.examples import Example, InvalidData
from services.training.features import Engines, features
from services.training.stages import Course, Stages

RUNS = ".runs"
CACHE = ".features.sqlite"


class Trained(NamedTuple):
    """A version of a router, whether it was there already, and if not, all stages as they went."""

    version: Path
    known: dict[str, Any]
    found: bool
    courses: Sequence[Course] = ()


class Training:
    """One run of `pointsman train`."""

    def __init__(
        self, settings: Settings, config: TrainingConfig, out: Path, console: Console, engines: Engines | None = None
    ) -> None:
        """`engines` gives what computes features, by default the service's own engine."""
        self._engines = engines or (lambda: closing(make_engine(settings)))
        self._settings = settings
        self._config = config
        self._out = out
        self._console = console
        self._registry = make_registry(settings)
        self._spec = feature_spec(settings)

    def run(self, data: Path) -> Trained:
        """Train on a file, or find the version that the same run has made. Raises InvalidData, ValueError."""
        rows = examples.divide(examples.read(data), self._config.held_out, self._config.seed)
        self._check_arms(rows)
        told = examples.data_hash(rows)
        run = self._config.fingerprint(told, repr(self._spec), *self._versions())
        if (found := artifact.of_run(self._out, run)) is not None:
            return Trained(found, artifact.document(found), found=True)
        H = self._features(rows)
        stages = Stages(self._settings, self._config, self._registry, rows, H, Checkpoints(self._out / RUNS, run))
        courses = stages.run(self._console)
        with Comparison(self._settings, self._config, self._registry, rows, H, self._console) as comparison:
            kept = comparison.decide(courses)
            return self._keep(rows, H, kept, courses, comparison, {"run": run, "data": told})

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
        if unknown := sorted(set(self._config.arms) - set(adapters)):
            raise ValueError(f"arms: {unknown[0]!r} is unknown, expected some of {', '.join(adapters)}")

    def _features(self, rows: Sequence[Example]) -> Array:
        with running.bar(self._console, "features", len(rows)) as update:
            done = 0

            def advance(more: int) -> None:
                nonlocal done
                done += more
                update(done, "")

            return features(rows, self._spec, self._out / CACHE, self._engines, advance)

    def _keep(
        self,
        rows: Sequence[Example],
        H: Array,
        kept: Course,
        courses: Sequence[Course],
        comparison: Comparison,
        known: dict[str, Any],
    ) -> Trained:
        supervised = _supervised(rows, H, comparison.outcomes(kept))
        calibration = calibrated(kept.mlp, supervised)
        temperature = calibration.temperature if calibration else kept.temperature
        contexts = self._contexts(kept.mlp, supervised, [e.task for e in rows], calibration, temperature)
        advice = comparison.recommend(contexts, kept)
        document = {
            **known,
            "arms": list(kept.mlp.arms),
            "adapters": {adapter.name: adapter.fingerprint for adapter in self._registry},
            "features": self._spec.document,
            "config": self._config.model_dump(mode="json"),
            "calibration": calibration._asdict() if calibration else None,
            "metrics": dict(contexts.metrics),
            "stages": [course.document for course in courses],
            "kept": kept.stage,
            "decisions": comparison.decisions,
            "recommendation": advice,
            "alarms": alarms(kept.kept.health),
        }

        def fill(folder: Path) -> None:
            if kept.adapters is not None:
                kept.adapters(folder / "adapters")
            report.write(folder, {**document, "router": contexts.fingerprint})

        version = artifact.write(self._out, contexts, supervised.sample(self._config.seed), document, fill)
        return Trained(version, artifact.document(version), found=False, courses=courses)

    def _contexts(
        self,
        mlp: RouterMLP,
        supervised: Supervised,
        tasks: Sequence[str],
        calibration: Calibration | None,
        temperature: float,
    ) -> ContextMap:
        metrics = {"ece": calibration.ece_after} if calibration else {}
        return fit_context_map(
            mlp,
            supervised.H,
            supervised.labels,
            ClassifierConfig(seed=self._config.seed),
            pca=min(self._config.components, *supervised.H.shape),
            temperature=temperature,
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


def _supervised(rows: Sequence[Example], H: Array, measured: dict[tuple[int, str], float]) -> Supervised:
    """The rows with their outcomes, and those that were `measured`, by position and arm."""
    arms = sorted({arm for e in rows for arm in e.outcomes} | {arm for _, arm in measured})
    outcomes = np.array([[e.outcomes.get(arm, np.nan) for arm in arms] for e in rows]).reshape(len(rows), len(arms))
    for (row, arm), reward in measured.items():
        if np.isnan(outcomes[row, arms.index(arm)]):
            outcomes[row, arms.index(arm)] = reward
    aside = np.array([e.is_held_out for e in rows])
    return Supervised(H, tuple(e.label for e in rows), tuple(arms), outcomes, aside)
