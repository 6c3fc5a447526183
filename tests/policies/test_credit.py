"""An episode is one observation, however its reward is shared."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.credit import Scheme, credit
from policies.prior import LearningConfig


@given(st.sampled_from(get_args(Scheme)), st.integers(1, 50), st.floats(0, 1))
def test_an_episode_weighs_as_one_observation(scheme: Scheme, n: int, discount: float) -> None:
    weights = credit(scheme, n, discount)
    assert len(weights) == n
    assert sum(weights) == pytest.approx(1.0)
    assert all(weight >= 0 for weight in weights)


def test_who_gets_the_credit() -> None:
    assert credit("equal", 4, 0.5) == [0.25] * 4
    assert credit("last", 3, 0.5) == [0.0, 0.0, 1.0]
    assert credit("discounted", 3, 0.5) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert credit("discounted", 3, 1.0) == pytest.approx(credit("equal", 3, 1.0))
    assert credit("discounted", 3, 0.0) == credit("last", 3, 0.0)
    assert credit("equal", 0, 0.5) == credit("last", 0, 0.5) == []


@pytest.mark.parametrize("changes", [{"credit": "first"}, {"credit_discount": 1.5}, {"credit_discount": -0.1}])
def test_what_cannot_be_configured(changes: Any) -> None:
    with pytest.raises(ValueError, match="credit"):
        LearningConfig(**changes)
