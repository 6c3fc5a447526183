"""What decides between stages, and between ways of serving: real answers to held-out examples."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from rich.console import Console

from cluster.settings import Settings
from policies.checks import Array
from policies.context import ContextMap
from policies.mixtures import in_blocks, mixture
from policies.training.recommendation import Way, recommend
from services.adapters.registry import BASE, Registry
from services.engines import make_engine
from services.training import running
from services.training.config import TrainingConfig
from services.training.examples import Example
from services.training.measure import Gates, Measuring
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
        """The last stage that is not worse than the one before it, by the first choice alone.

        Where decoder blocks have gates of their own, by the mixture: its first choice would not show them.
        """
        kept = courses[0]
        if not self._judged or len(courses) == 1:
            return courses[-1]
        before = self._as_served(kept)
        for course in courses[1:]:
            after = self._as_served(course)
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

    def recommend(self, contexts: ContextMap, kept: Course) -> dict[str, Any] | None:
        """How to serve a router."""
        if not self._judged:
            return None
        members = {"hard": 1, f"top{_TOP}": _TOP, "soft": self._settings.model.max_mixture}
        gates = [[self._mixed(contexts, i, most) for i in self._judged] for most in members.values()]
        seconds = self._engine(kept).seconds([self._rows[i] for i in self._judged], gates)
        success = [self._success(kept, self._judged, each) for each in gates]
        ways = [Way(*way) for way in zip(members, members.values(), success, seconds, strict=True)]
        found = recommend(ways)
        figures = {way.name: {"success": float(way.success.mean()), "seconds": way.seconds} for way in ways}
        return {**found._asdict(), "ways": figures}

    def outcomes(self, kept: Course) -> dict[tuple[int, str], float]:
        """Rewards by row and arm: base, the router's choice and some other, on rows that no label tells anything of."""
        rows = self._sample([i for i, e in enumerate(self._rows) if e.target and not e.label and not e.is_held_out])
        if not rows:
            return {}
        arms, chance = kept.mlp.arms, np.random.default_rng(self._config.seed)
        gates = {row: _gates(kept, self._H[row])[0] for row in rows}
        asked = [
            (row, arm)
            for row in rows
            for arm in dict.fromkeys([BASE, max(arms, key=gates[row].__getitem__), str(chance.choice(arms))])
        ]
        only: list[Gates] = [{} if arm == BASE else {arm: 1.0} for _, arm in asked]
        scores = self._success(kept, [row for row, _ in asked], only)
        return dict(zip(asked, scores.tolist(), strict=True))

    def _as_served(self, course: Course) -> Array:
        members = 1 if course.mlp.heads is None else self._settings.model.max_mixture
        gates = [_served(*_gates(course, self._H[i]), members) for i in self._judged]
        return self._success(course, self._judged, gates)

    def _mixed(self, contexts: ContextMap, row: int, members: int) -> Gates:
        h = self._H[row]
        return _served(contexts.map(h).gates, contexts.layer_gates(h), members)

    def _success(self, course: Course, rows: Sequence[int], gates: Sequence[Gates]) -> Array:
        with running.bar(self._console, f"{course.stage}: answers", len(rows)) as update:
            return self._engine(course).success([self._rows[i] for i in rows], gates, lambda done: update(done, ""))

    def _engine(self, course: Course) -> Measuring:
        """An engine with the adapters that the course ended with."""
        name = course.stage if course.adapters else ""
        if name not in self._measuring:
            paths = self._registry.paths if course.adapters is None else self._written(course)
            made = self._open.enter_context(closing(make_engine(self._settings, paths)))
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


@torch.no_grad()
def _gates(course: Course, h: Array) -> tuple[dict[str, float], dict[str, Array]]:
    """The gates of features [D], and those of each decoder block [L] where a stage ended with a head for each."""
    mlp, row = course.mlp, torch.tensor(h, dtype=torch.float32)[None]
    shared, own = (z.double()[0] / course.temperature for z in (mlp(row), mlp.by_layer(row)))
    gates = dict(zip(mlp.arms, torch.softmax(shared, dim=0).tolist(), strict=True))
    layers = {} if mlp.heads is None else dict(zip(mlp.arms, torch.softmax(own, dim=1).T.numpy(), strict=True))
    return gates, layers


def _served(gates: Mapping[str, float], layers: Mapping[str, Array], members: int) -> Gates:
    """The largest gates; base takes part as no adapter at all."""
    mixed = mixture(gates, members)
    served: Gates = in_blocks(mixed, layers) if layers and members > 1 else mixed
    return {arm: gate for arm, gate in served.items() if arm != BASE}
