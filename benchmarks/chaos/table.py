"""The table of faults, and what must hold of every row."""

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from benchmarks.chaos.stage import Row
from benchmarks.reporting import Check

_TOLERANCE = 1e-9


def table(rows: Sequence[Row]) -> Table:
    """One row a fault."""
    counted = ("times", "asked", "failed", "kept", "slowest s", "said", "refused", "back after s")
    columns = ("fault", "on", *counted, "lost", "doubled", "posterior")
    made = Table(*columns, title="faults under load", title_justify="left")
    for row in rows:
        seen, times = row.counts, row.recovery_s
        made.add_row(
            row.fault,
            row.where,
            str(len(times)),
            str(seen.requests),
            str(seen.failed),
            str(seen.undurable),
            f"{seen.slowest_s:.1f}",
            str(seen.words),
            str(seen.refused),
            f"{median(times):.1f} ({max(times):.1f})",
            str(row.lost),
            str(row.doubled),
            f"{row.difference:.0e}",
        )
    made.caption = (
        "asked, said: requests and rewards that were answered; failed, refused: tries of either that were not\n"
        "kept: answered, and written when Redis was back; on processes the clients call the store itself\n"
        "back after: until a new request was durable and its reward folded, median (most)\n"
        "posterior: largest relative difference of S, e, P from a fold of the whole log"
    )
    return made


def checks(rows: Sequence[Row]) -> list[Check]:
    """What must hold after every fault."""
    return [check for row in rows for check in _checks(row)]


def _checks(row: Row) -> list[Check]:
    name, most = f"{row.fault} on {row.where}", max(row.recovery_s)
    found = [
        Check(f"{name}: lost", row.lost, "0", row.lost == 0),
        Check(f"{name}: doubled", row.doubled, "0", row.doubled == 0),
        Check(f"{name}: posterior", row.difference, f"at most {_TOLERANCE:g}", row.difference <= _TOLERANCE),
        Check(f"{name}: back after s", most, f"at most {row.within_s:g}", most <= row.within_s),
    ]
    if row.served:
        found.append(Check(f"{name}: failed", row.counts.failed, "0", row.counts.failed == 0))
    return found
