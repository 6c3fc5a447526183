"""How sure the gates may be: one temperature for all logits, and how far confidence is from accuracy."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.checks import Array

_LOG_RANGE: Final = (-3.0, 3.0)
_HALVINGS: Final = 60
_GOLDEN: Final = (np.sqrt(5) - 1) / 2


class Calibration(NamedTuple):
    """The temperature that fits best, and the expected calibration error at temperature 1 and at this one."""

    temperature: float
    ece_before: float
    ece_after: float


def calibrate(logits: Array, targets: npt.NDArray[np.intp], weights: Array | None = None) -> Calibration:
    """The temperature τ that minimises the log loss of softmax(z/τ) (Guo et al. 2017), of held-out logits [n,K].

    Targets are softened as if one of n + 2 examples were wrong (Platt 1999), so that a small set without an error does
    not make the gates certain. ValueError: no example.
    """
    if not len(logits):
        raise ValueError("logits has 0 rows, expected held-out examples to calibrate on")
    given = np.ones(len(logits)) if weights is None else weights

    doubt = 1 / (len(logits) + 2)

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        top = z.max(axis=1)
        log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
        right = z[np.arange(len(z)), targets]
        others = (z.sum(axis=1) - right) / max(1, z.shape[1] - 1)
        return float(given @ (log_sum - (1 - doubt) * right - doubt * others))

    temperature = float(np.exp(_minimum(loss)))
    before, after = (ece(probabilities(logits, tau), targets, given) for tau in (1.0, temperature))
    return Calibration(temperature, before, after)


def probabilities(logits: Array, temperature: float = 1.0) -> Array:
    """softmax(z/τ) [n,K]."""
    z = logits / temperature
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    gates: Array = powers / powers.sum(axis=1, keepdims=True)
    return gates


def ece(gates: Array, targets: npt.NDArray[np.intp], weights: Array | None = None, bins: int = 15) -> float:
    """Expected calibration error: |accuracy − confidence| of equal bins of confidence, by their weight."""
    given = np.ones(len(gates)) if weights is None else weights
    confidence, right = gates.max(axis=1), gates.argmax(axis=1) == targets
    of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(of, given * (right - confidence), minlength=bins)
    return float(np.abs(gaps).sum() / given.sum())


def _minimum(loss: Callable[[float], float]) -> float:
    """Golden section: the log loss has one minimum in τ."""
    low, high = _LOG_RANGE
    for _ in range(_HALVINGS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return (low + high) / 2
