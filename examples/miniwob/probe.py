"""How far a linear probe tells the families apart: on the bandit's context x, and on each of its parts alone."""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from examples.miniwob.episodes import Episode
from examples.miniwob.families import NEWER
from examples.miniwob.paths import MODEL, ROUTER
from examples.miniwob.train_router import read_features
from policies.checks import Array, Mask
from policies.context import ContextMap
from services.engine.loading import load
from services.engine.routed import RoutedEngine

_RIDGE: Final = 1e-3


def probe(episodes: Sequence[Episode]) -> dict[str, float]:
    """Share of the newer families' screens whose family a linear probe names, among all families, on unseen seeds.

    The probe is ridge regression on the families' indicators, fitted on the screens of even seeds, judged on odd ones.
    Keys: `x`, and its parts `hidden` (the MLP's layer, trained without the newer families) and `components` (the PCA).
    """
    X, _ = ContextMap.load(ROUTER).map_batch(_features(episodes))
    families = np.array([episode.family for episode in episodes])
    odd = np.array([episode.seed % 2 == 1 for episode in episodes])
    hidden = len(ContextMap.load(ROUTER).projection.b1)
    parts = {"x": X, "hidden": X[:, : 1 + hidden], "components": np.delete(X, range(1, 1 + hidden), axis=1)}
    return {name: _named(part, families, odd) for name, part in parts.items()}


def _features(episodes: Sequence[Episode]) -> Array:
    engine = RoutedEngine(load(str(MODEL)), {})
    try:
        return asyncio.run(read_features(engine, episodes))
    finally:
        engine.close()


def _named(X: Array, families: np.ndarray, odd: Mask) -> float:
    """Accuracy on the newer families' rows that are `odd`; X [n,d] holds a constant."""
    names = np.unique(families)
    indicators = (families[:, np.newaxis] == names).astype(np.float64)
    seen, unseen = X[~odd], X[odd & np.isin(families, NEWER)]
    weights = np.linalg.solve(seen.T @ seen + _RIDGE * np.eye(X.shape[1]), seen.T @ indicators[~odd])
    return float(np.mean(names[(unseen @ weights).argmax(1)] == families[odd & np.isin(families, NEWER)]))
