"""Mixtures keep the largest gates, in proportion."""

import numpy as np
import pytest

from policies.mixtures import in_blocks, mixture

GATES = {"a": 0.1, "b": 0.6, "c": 0.3, "d": 0.0}


def test_the_largest_gates_are_kept_in_proportion() -> None:
    assert mixture(GATES, 2) == pytest.approx({"b": 2 / 3, "c": 1 / 3})
    assert mixture(GATES, 1) == {"b": 1.0}


def test_nobody_takes_part_without_a_gate() -> None:
    assert mixture(GATES, 4) == pytest.approx({"b": 0.6, "c": 0.3, "a": 0.1})


def test_there_is_somebody_to_mix() -> None:
    with pytest.raises(ValueError, match="members is 0, expected at least 1"):
        mixture(GATES, 0)


def test_in_each_block_the_members_share_by_its_own_gates() -> None:
    layers = {"a": np.array([0.1, 0.3, 0.0]), "b": np.array([0.3, 0.1, 0.0]), "c": np.array([0.6, 0.6, 1.0])}
    found = in_blocks({"b": 0.6, "a": 0.4}, layers)
    assert list(found) == ["b", "a"]
    assert found["b"] == pytest.approx((0.75, 0.25, 0.6))
    assert found["a"] == pytest.approx((0.25, 0.75, 0.4))
