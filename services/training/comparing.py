"""What decides between stages, and between ways of serving: real answers to held-out examples."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from rich.console import Console

from cluster.settings import Settings
from policies.checks import Array
from policies.mixtures import mixture
from policies.training.network import RouterMLP
from policies.training.recommendation import Way, recommend
from services.adapters.registry import BASE, Registry
from services.training.config import TrainingConfig
from services.training.engines import engine
from services.training.examples import Example
from services.training.measure import Measuring
from services.training.stages import Course

_TOP: Final = 2


class Comparison:
    """Asks the engine. Without targets, or with `measured` 0, the last stage is kept and nothing is recommended."""

    def __init__(
        self,
        settings: Settings,
        config: TrainingConfig,
        registry: Registry,
        rows: Sequence[Example],
        H: Array,
        console: Console,
    ) -> None:
        self._settings = settings
        self._config = config
        self._registry = registry
        self._rows = rows
        self._H = H
        self._console = console
        self._judged = self._sample([i for i, e in enumerate(rows) if e.target and e.is_held_out])
        self._open = ExitStack()
        self._measuring: dict[str, Measuring] = {}
        self.decisions: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def decide(self, courses: Sequence[Course]) -> Course:
        """The last stage that is not worse than the one before it, under hard routing."""
        kept = courses[0]
        if not self._judged or len(courses) == 1:
            return courses[-1]
        before = self._hard(kept)
        for course in courses[1:]:
            after = self._hard(course)
            better = after.mean() >= before.mean()
            self.decisions.append(
                {
                    "stage": course.stage,
                    "against": kept.stage,
                    "examples": len(self._judged),
                    "success": float(after.mean()),
                    "before": float(before.mean()),
                    "won": int((after > before).sum()),
                    "lost": int((after < before).sum()),
                    "kept": bool(better),
                }
            )
            if better:
                kept, before = course, after
        return kept

    def recommend(self, gates: Array, kept: Course) -> dict[str, Any] | None:
        """How to serve, from the router's gates [n,K] over all rows."""
        if not self._judged:
            return None
        examples = [self._rows[i] for i in self._judged]
        measuring, ways = self._engine(kept), []
        for name, members in {"hard": 1, f"top{_TOP}": _TOP, "soft": self._settings.model.max_mixture}.items():
            mixed = [self._mixed(kept.mlp, gates[i], members) for i in self._judged]
            ways.append(
                Way(name, members, self._success(kept, self._judged, mixed), measuring.seconds(examples, mixed))
            )
        found = recommend(ways)
        figures = {way.name: {"success": float(way.success.mean()), "seconds": way.seconds} for way in ways}
        return {**found._asdict(), "ways": figures}

    def outcomes(self, kept: Course) -> dict[tuple[int, str], float]:
        """Rewards by row and arm: base, the router's choice and some other, on rows that no label tells anything of."""
        rows = self._sample([i for i, e in enumerate(self._rows) if e.target and not e.label and not e.is_held_out])
        if not rows:
            return {}
        arms, chance = kept.mlp.arms, np.random.default_rng(self._config.seed)
        chosen = self._gates(kept.mlp, rows).argmax(axis=1)
        asked = [
            (row, arm)
            for row, best in zip(rows, chosen, strict=True)
            for arm in dict.fromkeys([BASE, arms[best], str(chance.choice(arms))])
        ]
        only = [{} if arm == BASE else {arm: 1.0} for _, arm in asked]
        scores = self._success(kept, [row for row, _ in asked], only)
        return dict(zip(asked, scores.tolist(), strict=True))

    def _hard(self, course: Course) -> Array:
        gates = self._gates(course.mlp, self._judged)
        only = [self._mixed(course.mlp, row, 1) for row in gates]
        return self._success(course, self._judged, only)

    def _success(self, course: Course, rows: Sequence[int], gates: Sequence[dict[str, float]]) -> Array:
        with self._console.status(f"{course.stage}: answering {len(rows)} examples…"):
            return self._engine(course).success([self._rows[i] for i in rows], gates)

    def _mixed(self, mlp: RouterMLP, gates: Array, members: int) -> dict[str, float]:
        """The largest gates; base takes part as no adapter at all."""
        mixed = mixture(dict(zip(mlp.arms, gates.tolist(), strict=True)), members)
        return {arm: gate for arm, gate in mixed.items() if arm != BASE}

    @torch.no_grad()
    def _gates(self, mlp: RouterMLP, rows: Sequence[int]) -> Array:
        logits = mlp(torch.tensor(self._H[list(rows)], dtype=torch.float32))
        return np.asarray(torch.softmax(logits.double(), dim=1).numpy())

    def _engine(self, course: Course) -> Measuring:
        """An engine with the adapters that the course ended with."""
        name = course.stage if course.adapters else ""
        if name not in self._measuring:
            paths = self._registry.paths if course.adapters is None else self._written(course)
            made = self._open.enter_context(engine(self._settings, paths))
            self._measuring[name] = Measuring(made, self._config.max_tokens)
        return self._measuring[name]

    def _written(self, course: Course) -> dict[str, Path]:
        assert course.adapters is not None
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        course.adapters(folder)
        return self._registry.paths | {path.name: path for path in folder.iterdir()}

    def _sample(self, rows: Sequence[int]) -> list[int]:
        chance = np.random.default_rng(self._config.seed)
        return sorted(chance.permutation(np.array(rows, dtype=int))[: self._config.measured].tolist())
