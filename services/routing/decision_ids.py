"""Ids of decisions. They tell when a decision was taken, and whether it was written before its answer began."""

import secrets
import time

_WRITTEN, _KEPT = "d", "k"
_DIGITS = 12


def new(*, kept: bool = False) -> str:
    """Sortable by time: milliseconds, then 80 random bits, in hex. `kept` by its Router, to be written later."""
    return f"{_KEPT if kept else _WRITTEN}{time.time_ns() // 1_000_000:0{_DIGITS}x}{secrets.token_hex(10)}"


def kept_since(decision_id: str) -> float | None:
    """When the decision was taken (unix s) if its Router kept it; None for any other id."""
    if not decision_id.startswith(_KEPT):
        return None
    try:
        return int(decision_id[1 : 1 + _DIGITS], 16) / 1000
    except ValueError:
        return None
