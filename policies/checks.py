"""Numbers and arrays as the policies take them, and refusals that name the field, the value and what was expected."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


def number(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` if it is finite and in [low, high]."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {value}, expected a finite number in [{low}, {high}]")
    return value


def array(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> Array:
    """`value` as finite float64 of `shape`, where None stands for any length."""
    result = np.asarray(value, dtype=np.float64)
    if result.shape != shape and not _fits(result.shape, shape):
        expected = tuple("any" if length is None else length for length in shape)
        raise ValueError(f"{name} has shape {result.shape}, expected {expected}")
    if not np.isfinite(result).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
        raise ValueError(f"{name} is {result[position]} at {position}, expected finite numbers")
    return result


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(found) == len(expected) and all(want in (None, got) for want, got in zip(expected, found, strict=True))
