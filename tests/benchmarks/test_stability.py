"""A long stream through the service's path agrees with a solve from scratch; a part that is lost on the way shows."""

import pytest
from rich.progress import Progress

from benchmarks.bandit_stability import measure
from policies.checks import Array
from policies.evidence import ArmStatistics


@pytest.mark.parametrize("discount", [1.0, 0.998])
def test_twenty_thousand_updates_leave_no_error(discount: float) -> None:
    found = measure(discount, 20_000, Progress(disable=True))
    assert max(found.errors.values()) < 1e-13


def test_a_part_that_is_lost_on_the_way_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ArmStatistics.retract

    def rounded(self: ArmStatistics, x: Array, tick: int, reward: float, weight: float, time: float) -> None:
        original(self, x, tick, reward * (1 - 1e-6), weight, time)

    monkeypatch.setattr(ArmStatistics, "retract", rounded)
    found = measure(1.0, 20_000, Progress(disable=True))
    assert found.errors["e"] > 1e-9
    assert found.errors["S"] < 1e-13
