"""The Open Bandit sample (Saito et al. 2021) that comes inside the package `obp`: clicks on items of a fashion shop.

Two policies served the same pages for a week, uniform and Bernoulli Thompson sampling, 10,000 rows each. What one of
them earned in its own log is an estimate too, of some forty clicks: so there are point errors and nothing to cover.
"""

import csv
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import yaml

from policies.checks import Array, Rows
from policies.evaluation import Evaluation, Log, evaluate

_ITEMS: Final = 80
_POSITIONS: Final = 3
_DRAWS: Final = 20_000


class Behaviour(NamedTuple):
    """The log of one policy, with the position [n] of each item on its page."""

    log: Log
    position: Rows


class PointError(NamedTuple):
    """What one policy earned in its own log, and what the log of the other one says of it."""

    policy: str
    clicks: float
    evaluation: Evaluation


def point_errors() -> list[PointError]:
    """Each of the two policies, evaluated on the log of the other."""
    uniform, thompson = _read("random"), _read("bts")
    chances = _thompson()
    pairs = [
        ("uniform", uniform, thompson, np.full((len(thompson.position), _ITEMS), 1 / _ITEMS)),
        ("thompson", thompson, uniform, chances[uniform.position]),
    ]
    return [PointError(n, float(own.log.reward.mean()), evaluate(other.log, target)) for n, own, other, target in pairs]


def _read(policy: str) -> Behaviour:
    with (_package() / "dataset" / "obd" / policy / "all" / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    action = np.array([int(row["item_id"]) for row in rows])
    position = np.array([int(row["position"]) - 1 for row in rows])
    log = Log(
        X=_contexts(rows),
        eligible=np.ones((len(rows), _ITEMS), dtype=bool),
        action=action,
        propensity=np.array([float(row["propensity_score"]) for row in rows]),
        unit=np.arange(len(rows)),
        reward=np.array([float(row["click"]) for row in rows]),
    )
    return Behaviour(log, position)


def _contexts(rows: list[dict[str, str]]) -> Array:
    """1, then a column for each value of position and of the user's features."""
    columns = [np.ones(len(rows))]
    for name in ("position", *(f"user_feature_{i}" for i in range(4))):
        values = np.array([row[name] for row in rows])
        columns += [(values == value).astype(np.float64) for value in np.unique(values)]
    return np.stack(columns, axis=1)


@cache
def _thompson() -> Array:
    """[position, item]: how often Thompson sampling, with the counts that its authors publish, ranks an item there."""
    counts = yaml.safe_load((_package() / "policy" / "conf" / "prior_bts.yaml").read_text())["all"]
    drawn = np.random.default_rng(0).beta(counts["alpha"], counts["beta"], size=(_DRAWS, _ITEMS))
    ranked = np.argsort(-drawn, axis=1)[:, :_POSITIONS]
    return np.stack([np.bincount(ranked[:, i], minlength=_ITEMS) / _DRAWS for i in range(_POSITIONS)])


def _package() -> Path:
    """Where the package lies; it is not imported, as only its data are wanted."""
    found = find_spec("obp")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("obp is not installed, expected the optional dependencies `bench`")
    return Path(found.origin).parent
