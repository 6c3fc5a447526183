"""kill -9 of Redis and the Learner under load; the long form is `python -m benchmarks.chaos --only learner`."""

from pathlib import Path

from benchmarks.chaos import storm


async def test_whoever_is_killed_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    outcome = await storm(tmp_path, kills=5, seed=7)
    assert len(outcome.kills) == 5
    assert (outcome.account.lost, outcome.account.doubled, outcome.ended_by_themselves) == (0, 0, 0)
    assert outcome.account.decisions > 0
    assert outcome.whole.ok, outcome.whole
    assert outcome.rest.ok, outcome.rest
