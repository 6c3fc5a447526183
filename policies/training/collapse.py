"""Watching that the router uses its adapters: how the gates are spread, and what to say when they are not."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from policies.checks import Array

PEAKED: Final = 0.9
_TAKEN_OVER: Final = 0.3
"""Share of the choices beyond its due from which on an adapter has taken over."""
_FORGOTTEN: Final = 0.5
"""Recall below which an adapter is lost to the others."""


class Health(NamedTuple):
    """How gates [n,K] are spread over the arms. Where there are labels, every label counts equally.

    use: mean gate.  chosen: share of the examples whose largest gate it is.  entropy: mean of the gates', over log K,
    0 to 1.  peaked: share of the examples whose largest gate exceeds 0.9.  recall: of each label, the share of its
    examples on which its gate is the largest.
    """

    use: Mapping[str, float]
    chosen: Mapping[str, float]
    entropy: float
    peaked: float
    recall: Mapping[str, float]

    @property
    def mean_recall(self) -> float | None:
        """The mean over the labels; None without labels."""
        return sum(self.recall.values()) / len(self.recall) if self.recall else None


def health(gates: Array, arms: Sequence[str], labels: Sequence[str]) -> Health:
    """The figures of gates [n,K]; "" labels what has none. A label that is none of the arms is never found."""
    names = np.array(labels, dtype=np.str_)
    known = sorted(set(labels) - {""})
    weights = _balanced(names)
    top = gates.argmax(axis=1)
    chosen = np.bincount(top, weights, minlength=len(arms))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(gates * np.log(gates)).sum(axis=1) / np.log(max(2, len(arms)))
    right = np.array(arms)[top] == names
    return Health(
        use=dict(zip(arms, (weights @ gates).tolist(), strict=True)),
        chosen=dict(zip(arms, chosen.tolist(), strict=True)),
        entropy=float(weights @ entropy),
        peaked=float(weights @ (gates.max(axis=1) > PEAKED)),
        recall={label: float(right[names == label].mean()) for label in known},
    )


def alarms(found: Health) -> list[str]:
    """What is wrong, in words: an adapter that takes over, and those that are never or hardly found."""
    due = {arm: (1 / len(found.recall) if arm in found.recall else 0.0) for arm in found.chosen}
    if not found.recall:
        due = dict.fromkeys(found.chosen, 1 / len(found.chosen))
    said = [
        f"{arm} takes over: it gets {share:.0%} of the requests, expected about {due[arm]:.0%}"
        for arm, share in found.chosen.items()
        if share > due[arm] + _TAKEN_OVER
    ]
    said += [
        f"{arm} is lost: {recall:.0%} of its requests find it"
        for arm, recall in found.recall.items()
        if recall < _FORGOTTEN
    ]
    return said


def _balanced(names: np.ndarray) -> Array:
    """Weights [n] that sum to 1, each label's the same; what has no label is a label of its own."""
    _, of, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray(1 / (counts[of] * len(counts)), dtype=np.float64)
