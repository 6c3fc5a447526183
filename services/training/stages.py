"""The stages of a run, one after another, each from where the one before it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from cluster.settings import Settings
from policies.checks import Array
from policies.training.classifier import Classifier, ClassifierConfig
from policies.training.end_to_end import EndToEnd, EndToEndConfig
from policies.training.network import RouterMLP
from policies.training.stage import Round, Stage
from services.adapters.registry import Registry
from services.engines import load_checkpoint
from services.training import running
from services.training.checkpoints import Checkpoints
from services.training.config import MixtureOptions, TrainingConfig
from services.training.examples import Example, InvalidData
from services.training.mixture import SoftMixture


@dataclass(frozen=True, eq=False)
class Course:
    """A stage as it went: its rounds, the one that was kept, and what that left.

    temperature: of the gates where no labels calibrate them.  adapters: writes those that were trained along.
    """

    stage: str
    rounds: list[Round]
    kept: Round
    mlp: RouterMLP
    temperature: float = 1.0
    adapters: Callable[[Path], None] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As training.json tells it."""
        rounds = [
            {"number": r.number, "loss": r.loss, "held_out_loss": r.held_out_loss, **r.health._asdict()}
            for r in self.rounds
        ]
        return {"stage": self.stage, "kept": self.kept.number, "rounds": rounds}


class Stages:
    """Runs those of the options, or stage 1 where rows name adapters and stage 2 where they do not."""

    def __init__(
        self,
        settings: Settings,
        config: TrainingConfig,
        registry: Registry,
        rows: Sequence[Example],
        H: Array,
        checkpoints: Checkpoints,
    ) -> None:
        self._settings = settings
        self._config = config
        self._registry = registry
        self._rows = rows
        self._H = H
        self._checkpoints = checkpoints

    def run(self, console: Console) -> list[Course]:
        """Every stage's course. Raises InvalidData for rows without what a stage needs."""
        wanted = self._config.stages or ((1,) if any(e.label for e in self._rows) else (2,))
        courses: list[Course] = []
        if 1 in wanted:
            courses.append(self._classify(console))
        if 2 in wanted:
            courses.append(self._end_to_end(console, courses[-1].mlp if courses else None))
        if 3 in wanted:
            if not courses:
                raise ValueError("stages: 3 alone, expected 1 or 2 before it")
            courses.append(self._joint(console, courses[-1].mlp))
        return courses

    def _classify(self, console: Console) -> Course:
        arms = self._config.arms
        labelled = [i for i, e in enumerate(self._rows) if e.label and (not arms or e.label in arms)]
        if not labelled:
            raise InvalidData(f"no row names {' or '.join(arms) or 'an adapter'}, expected labels for stage 1")
        config = ClassifierConfig(
            hidden=self._config.hidden,
            held_out=self._config.held_out,
            balanced=self._config.balanced,
            seed=self._config.seed,
            **self._config.classifier.model_dump(),
        )
        aside = np.array([self._rows[i].is_held_out for i in labelled])
        labels = [self._rows[i].label for i in labelled]
        stage = Classifier(self._H[labelled], labels, config, aside=aside, arms=arms)
        return self._run(stage, console)

    def _fresh(self) -> RouterMLP:
        """A random start over the arms of the options, the labels, or all adapters."""
        named = sorted({e.label for e in self._rows if e.label and not e.is_held_out})
        arms = self._config.arms or named or [adapter.name for adapter in self._registry]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.seed)
            return RouterMLP(self._H.shape[1], self._config.hidden, arms)

    def _end_to_end(self, console: Console, known: RouterMLP | None) -> Course:
        options = self._config.end_to_end
        mlp = known or self._fresh()
        options = options.model_copy(update={"probes": 0}) if known else options
        stage = self._stage(mlp, self._mixture(mlp.arms), options)
        return self._run(stage, console, options.temperature_end)

    def _joint(self, console: Console, mlp: RouterMLP) -> Course:
        options = self._config.joint
        mixture = self._mixture(mlp.arms)
        stage = self._stage(mlp, mixture, options, joint=True)
        return self._run(stage, console, options.temperature_end, mixture.save)

    def _stage(self, mlp: RouterMLP, mixture: SoftMixture, options: MixtureOptions, *, joint: bool = False) -> EndToEnd:
        common = {"balanced": self._config.balanced, "seed": self._config.seed}
        config = EndToEndConfig(**options.model_dump() | common)
        told = self._targeted
        headed = self._config.layer_gates and mlp.heads is None
        return EndToEnd(
            mlp.with_heads(mixture.layers) if headed else mlp,
            mixture,
            self._H[told],
            [self._rows[i].label for i in told],
            [self._rows[i].label or self._rows[i].task for i in told],
            np.array([self._rows[i].is_held_out for i in told]),
            config,
            joint=joint,
        )

    @cached_property
    def _targeted(self) -> list[int]:
        told = [i for i, e in enumerate(self._rows) if e.target]
        if not told:
            raise InvalidData("no row has a target, expected right answers for stages 2 and 3")
        return told

    def _mixture(self, arms: Sequence[str]) -> SoftMixture:
        """The model under a mixture of the adapters as they are on disk."""
        checkpoint = load_checkpoint(self._settings.model)
        return SoftMixture(checkpoint, self._registry.paths, arms, [self._rows[i] for i in self._targeted])

    def _run(
        self, stage: Stage, console: Console, temperature: float = 1.0, save: Callable[[Path], None] | None = None
    ) -> Course:
        kept = running.run(stage, self._checkpoints, console)
        return Course(stage.name, stage.history, kept, stage.mlp, temperature, save if kept.number else None)
