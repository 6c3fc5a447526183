"""(b) A world in which reward is linear in the context, as LinUCB assumes; drawn anew for every seed."""

from functools import lru_cache
from typing import Final

import numpy as np
import torch

from benchmarks.regret.trial import Labelled, Steps, Trial
from policies.checks import Array
from policies.prior import supervised_statistics
from policies.training.classifier import ClassifierConfig, train_classifier

_ARMS: Final = tuple(f"arm{k}" for k in range(10))
_NEWER: Final = 2
_WIDTH: Final = 20
_SPREAD: Final = 0.8
_LABELLED: Final = 150
_MLP: Final = ClassifierConfig(epochs=60, patience=60)  # early stopping ended long before the network was good


@lru_cache(maxsize=6)
def linear(seed: int, steps: int) -> Trial:
    """p(success of a | x) = ½ + ⟨w_a, z⟩ for unit vectors z, clipped to [0, 1]; x = [1 ; z].

    Two arms have no labels. A label is the best of the other arms. Success is a coin of p, drawn once an arm and step;
    what a choice earns is counted as p.
    """
    rng = np.random.default_rng([seed, 3])
    W = rng.normal(size=(len(_ARMS), _WIDTH))
    W *= _SPREAD / np.linalg.norm(W, axis=1, keepdims=True)
    z = rng.normal(size=(_LABELLED + steps, _WIDTH))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    p = np.clip(0.5 + z @ W.T, 0.0, 1.0)
    X = np.hstack([np.ones((len(z), 1)), z])
    known = len(_ARMS) - _NEWER
    labels = p[:_LABELLED, :known].argmax(axis=1)
    mine, requests = slice(_LABELLED), slice(_LABELLED, None)
    success = p[requests]
    return Trial(
        seed=seed,
        arms=_ARMS,
        X=X[requests],
        G=_gates(z, labels, seed)[requests],
        mlp_arms=_ARMS[:known],
        success=success,
        observed=(rng.random(success.shape) < success).astype(np.float64),
        oracle=success.max(axis=1),
        family=success.argmax(axis=1),
        known=success.argmax(axis=1) < known,
        prior=supervised_statistics(X[mine], [_ARMS[label] for label in labels], _ARMS[:known]),
        labelled=Labelled(X[mine], labels),
        episode=np.arange(steps),
        source=np.zeros(steps, dtype=np.int64),
        arrives=np.zeros(len(_ARMS), dtype=np.int64),
    )


def _gates(z: Array, labels: Steps, seed: int) -> Array:
    """What an MLP says that was trained on the first rows, in the order of the labels."""
    H = np.hstack([z, np.ones((len(z), 1))])
    config = ClassifierConfig(epochs=_MLP.epochs, patience=_MLP.patience, seed=seed)
    mlp, _ = train_classifier(H[: len(labels)], [_ARMS[label] for label in labels], config)
    with torch.inference_mode():
        gates: Array = torch.softmax(mlp(torch.tensor(H, dtype=torch.float32)), dim=1).double().numpy()
    return gates[:, [mlp.arms.index(arm) for arm in sorted(mlp.arms)]]
