"""Every fault of bare processes, once, under load; the long form is `python -m benchmarks.chaos`."""

import random
from pathlib import Path

from benchmarks.chaos.faults import ON_PROCESSES, STORM
from benchmarks.chaos.processes import Processes
from benchmarks.chaos.stage import Row, suffer
from benchmarks.chaos.table import checks


async def test_whatever_happens_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    plan = [(fault, 5 if fault is STORM else 1) for fault in ON_PROCESSES]
    random.Random(7).shuffle(plan)
    rows: list[Row] = []
    with Processes(tmp_path).running() as stage:
        await suffer(stage, plan, 7, rows, lambda: None)
        missed = [check for check in [*checks(rows), *stage.checks()] if not check.ok]
    assert not missed
    assert all(row.counts.words > 0 for row in rows)
    seen = {row.fault: row.counts for row in rows}
    assert seen["skew-clock"].late > 0
    assert seen["full-redis"].slowest_s > 1.0
