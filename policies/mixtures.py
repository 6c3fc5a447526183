"""Mixtures of adapters from the gates of the supervised router."""

from collections.abc import Mapping


def mixture(gates: Mapping[str, float], members: int) -> dict[str, float]:
    """The `members` largest gates, renormalised to sum to 1; the first of equals. ValueError: fewer than 1 member."""
    if members < 1:
        raise ValueError(f"members is {members}, expected at least 1")
    kept = sorted(gates, key=lambda name: -gates[name])[:members]
    total = sum(gates[name] for name in kept)
    return {name: gates[name] / total for name in kept if gates[name] > 0}
