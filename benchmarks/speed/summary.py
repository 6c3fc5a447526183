"""What is printed, and what was promised."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.reporting import Check
from benchmarks.speed.measure import BATCH, Size
from policies.prior import LearningConfig

_COLUMNS = (
    ("select", "ours"), ("a context of 32", "ours batch"), ("decide", "ours decide"), ("ParetoBandit", "paretobandit"),
    ("MABWiser", "mabwiser"), ("update", "ours update"), ("update γ<1", "ours fading update"),
    ("ParetoBandit", "paretobandit update"), ("γ<1", "paretobandit fading update"),
    ("MABWiser", "mabwiser update"),
)  # fmt: skip


def table(sizes: Sequence[Size]) -> Table:
    """Medians in µs. `select` is the core of a choice over all arms, like the peers' call; `decide` is all of it."""
    shown = Table("K, d", *(title for title, _ in _COLUMNS), title="µs a call, median")
    for size in sizes:
        times = [size.times.get(name) for _, name in _COLUMNS]
        times[1] = size.times["ours batch"] / BATCH
        shown.add_row(f"{size.arms}, {size.d}", *("" if each is None else f"{each:,.1f}" for each in times))
    return shown


def checks(measured: Sequence[Size], large: Size, error: float, rewards: int) -> list[Check]:
    """The figures that were promised."""
    found = [check for size in measured for check in _against_peers(size)]
    all_widths, top = large.times["ours all widths"], large.times["ours"]
    at = f"({large.arms}, {large.d})"
    return [
        *found,
        Check(f"{at} all widths / top widths", all_widths / top, "> 1", all_widths > top),
        Check(f"{at} same choice by top widths", large.top_identical, "at least the share proven",
              large.top_identical >= large.proven),
        Check(f"relative error after {rewards:,} rewards", error, "< 1e-9", error < 1e-9),
    ]  # fmt: skip


def _against_peers(size: Size) -> list[Check]:
    t, at, m = size.times, f"({size.arms}, {size.d})", LearningConfig().refresh
    fading = t["ours fading update"] / t["paretobandit fading update"]
    return [
        _at_least(f"{at} select, ParetoBandit / ours", t["paretobandit"] / t["ours"], 4),
        _at_least(f"{at} batch of 32 a context, ParetoBandit / ours", t["paretobandit"] / t["ours batch"] * BATCH, 10),
        _at_least(f"{at} update, ParetoBandit / ours", t["paretobandit update"] / t["ours update"], 1),
        _at_least(f"{at} update, MABWiser / ours", t["mabwiser update"] / t["ours update"], 30),
        _at_most(f"{at} update γ<1 (m={m}), ours / ParetoBandit", fading, 3),
        _at_least(f"{at} choices of a solve from scratch", size.identical, 1),
    ]


def _at_least(name: str, value: float, goal: float) -> Check:
    return Check(name, value, f"≥ {goal}", value >= goal)


def _at_most(name: str, value: float, goal: float) -> Check:
    return Check(name, value, f"≤ {goal}", value <= goal)
