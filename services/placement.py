"""What each arm would cost to serve now."""

from collections.abc import Collection, Mapping


def costs(
    arms: Collection[str], gates: Mapping[str, Mapping[str, float]], resident: Collection[str], page_in_ms: float
) -> dict[str, float]:
    """Extra milliseconds of each arm at the replica that encoded the request: one page-in per missing adapter."""
    return {arm: page_in_ms * sum(adapter not in resident for adapter in gates[arm]) for arm in arms}
