"""The learners by name, and the grid on which each of them is tuned."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.regret.baselines import Neighbours, best_single, supervised
from benchmarks.regret.ours import Ours
from benchmarks.regret.peers import MABWiser, ParetoBandit
from benchmarks.regret.simulation import Learner, Run, simulate
from benchmarks.regret.trial import Trial
from benchmarks.regret.verdict import SHIPPED
from policies import PolicyConfig
from policies.prior import LearningConfig

Values = Mapping[str, float]
"""One point of a grid."""

OURS: Final = ("linucb", "lints", "greedy")
FIXED: Final = {"mlp": supervised, "best single": best_single}

_LINEAR: Final = {
    "alpha": (0.2, 0.025, 0.05, 0.1, 0.4),
    "discount": (0.998, 1.0, 0.99),
    "prior_weight": (100.0, 30.0),
}
_NOT_FORGETTING: Final = {name: values for name, values in _LINEAR.items() if name != "discount"}
GRIDS: Final[dict[str, Mapping[str, tuple[float, ...]]]] = {
    "linucb": _LINEAR,
    "lints": _LINEAR,
    "greedy": {"epsilon_uniform": (0.03, 0.01, 0.1), **{k: v for k, v in _LINEAR.items() if k != "alpha"}},
    "paretobandit": _LINEAR,
    "mabwiser": _NOT_FORGETTING,
    "knn": {"k": (10, 5, 20), "epsilon": (0.05, 0.01, 0.1)},
}
"""The values of every parameter that is tuned; the search starts from the first of each."""

_BOUNDS: Final = {"g nonsense": {"key_cap": (0.0, 4.0, 8.0)}}
"""By world, what only ours can be told: how much of an arm's evidence one client may hold, in decisions."""


def grid(world: str, name: str) -> Mapping[str, tuple[float, ...]]:
    """The values of every parameter that is tuned for a learner in a world."""
    return {**GRIDS[name], **(_BOUNDS.get(world, {}) if name in OURS else {})}


def run(name: str, trial: Trial, values: Values) -> Run:
    """The run of the learner called `name`."""
    return FIXED[name](trial) if name in FIXED else simulate(trial, _create(name, trial, dict(values)))


def _create(name: str, trial: Trial, values: dict[str, Any]) -> Learner:
    if name == "knn":
        return Neighbours(trial, int(values["k"]), values["epsilon"])
    if name == SHIPPED:
        return Ours(trial, "linucb", LearningConfig(), PolicyConfig())
    learning = {key: values.pop(key) for key in ("discount", "prior_weight") if key in values}
    if name in OURS:
        key_cap = values.pop("key_cap", 0.0)
        return Ours(trial, name, LearningConfig(**learning), PolicyConfig(**values), key_cap)
    if name == "paretobandit":
        return ParetoBandit(trial, values["alpha"], LearningConfig(**learning))
    return MABWiser(trial, values["alpha"], LearningConfig(**learning))
