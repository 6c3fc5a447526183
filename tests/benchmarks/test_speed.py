"""What `benchmarks.bandit_speed` compares is the same model: choices are those of a solve from scratch."""

from dataclasses import replace

from benchmarks.speed.measure import measure
from benchmarks.speed.stream import long_stream
from benchmarks.speed.summary import checks


def test_choices_at_a_small_size_are_those_of_a_solve_from_scratch() -> None:
    size = measure(6, 5, 3, peers=False)
    assert size.identical == 1.0
    assert all(time > 0 for time in size.times.values())


def test_the_promised_figures_are_compared_with_their_goals() -> None:
    named = ("paretobandit", "mabwiser", "paretobandit update", "mabwiser update")
    slow = dict.fromkeys(named, 1.0) | {"paretobandit fading update": 1e9}
    size = measure(6, 5, 3, peers=False)
    peers = replace(size, times={**size.times, **slow})
    found = {check.name: check.ok for check in checks([peers], size, 1e-15, 10)}
    assert found["(6, 5) choices of a solve from scratch"]
    assert found["(6, 5) update γ<1 (m=8), ours / ParetoBandit"]
    assert not found["(6, 5) update, MABWiser / ours"]
    assert found["relative error after 10 rewards"]
    assert not {check.name: check.ok for check in checks([peers], size, 1.0, 10)}["relative error after 10 rewards"]


def test_a_stream_stays_close_to_a_solve_from_scratch() -> None:
    assert long_stream(3_000) < 1e-12
