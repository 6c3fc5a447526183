"""Delays in doubling buckets: quantiles near the truth, and a test of which of two comes later."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.delays import BUCKETS, FIRST_S, bucket, later, quantile


def counts(delays: list[float]) -> list[int]:
    return [sum(bucket(delay) == place for delay in delays) for place in range(BUCKETS)]


def test_buckets_double() -> None:
    assert [bucket(seconds) for seconds in (-1.0, 0.0, 0.1, 0.11, 0.2, 0.21, 0.4)] == [0, 0, 0, 1, 1, 2, 2]
    assert bucket(1e12) == BUCKETS - 1


@given(st.lists(st.floats(FIRST_S, 1e6), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_quantiles_are_within_a_bucket_of_the_truth(delays: list[float], q: float) -> None:
    found = quantile(counts(delays), q)
    true = sorted(delays)[max(0, int(np.ceil(q * len(delays) - 1e-9)) - 1)]
    assert found is not None
    assert true / 1.5 < found < true * 1.5


def test_without_delays_there_is_no_quantile() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None


def test_what_comes_later() -> None:
    slow, fast = counts([100.0] * 50), counts([1.0] * 40)
    assert later(slow, fast)[0] == 1.0
    assert later(fast, slow)[0] == 0.0
    assert later(slow, slow) == (0.5, 0.0)
    assert later(slow, fast)[1] == pytest.approx(0.5 / np.sqrt(91 / (12 * 50 * 40)))
