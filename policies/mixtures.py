"""Mixtures of adapters from the gates of the supervised router."""

from collections.abc import Mapping

import numpy as np

from policies.checks import Array


def mixture(gates: Mapping[str, float], members: int) -> dict[str, float]:
    """The `members` largest gates, renormalised to sum to 1; the first of equals. ValueError: fewer than 1 member."""
    if members < 1:
        raise ValueError(f"members is {members}, expected at least 1")
    kept = sorted(gates, key=lambda name: -gates[name])[:members]
    total = sum(gates[name] for name in kept)
    return {name: gates[name] / total for name in kept if gates[name] > 0}


def in_blocks(mixed: Mapping[str, float], layers: Mapping[str, Array]) -> dict[str, tuple[float, ...]]:
    """The members of a mixture with their gates [L] in each decoder block, renormalised to sum to 1 there.

    In a block of which no member has a gate, the mixture stays as it is.
    """
    own = np.array([layers[name] for name in mixed])
    sums = own.sum(axis=0)
    even = np.array(list(mixed.values()))[:, np.newaxis]
    shares = np.where(sums > 0, own / np.where(sums > 0, sums, 1.0), even)
    return {name: tuple(row) for name, row in zip(mixed, shares.tolist(), strict=True)}
