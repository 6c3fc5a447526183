"""Rewards that are never late: rank-one updates against solves from scratch, over long streams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import PolicyConfig, create
from policies.evidence import ArmStatistics
from policies.linucb import LinUCB
from policies.posterior import Posterior
from policies.prior import LearningConfig
from tests.policies.worlds import ARMS, DIMENSION, contexts, posterior

ARM = "claims"


def stream(belief: Posterior, n: int, seed: int = 0, weight: float = 1.0) -> None:
    rng, (X, _) = np.random.default_rng(seed), contexts(n, seed)
    for x in X:
        belief.learn(ARM, x, float(rng.random() < 0.7), weight)


def error(belief: Posterior) -> float:
    """Relative error of means and widths against V and b solved from scratch."""
    V, b = belief.prior.with_evidence(ARM, belief.statistics(ARM))
    X, _ = contexts(30, 99)
    row = belief.rows([ARM])[0]
    means, widths = X @ np.linalg.solve(V, b), np.sqrt(np.einsum("nd,dn->n", X, np.linalg.solve(V, X.T)))
    off = [np.abs(belief.means(X)[:, row] / means - 1).max(), np.abs(belief.widths(X)[:, row] / widths - 1).max()]
    return float(max(off))


def test_a_long_stream_stays_exact() -> None:
    belief = posterior(config=LearningConfig(discount=1.0))
    stream(belief, 20_000)
    assert belief.statistics(ARM).pulls == 20_000
    assert error(belief) < 1e-12


def test_rounding_is_taken_out_now_and_then() -> None:
    """The factor is computed anew long before rounding could add up: to the bit what `put` makes of the statistics."""
    belief = posterior(config=LearningConfig(discount=1.0))
    stream(belief, 4_096)
    X, _ = contexts(5, 3)
    means, widths = belief.means(X), belief.widths(X)
    belief.put(ARM, belief.statistics(ARM))
    assert np.array_equal(belief.means(X), means)
    assert np.array_equal(belief.widths(X), widths)


@pytest.mark.parametrize(("refresh", "exact_at"), [(1, {1, 2, 3, 4, 5, 6, 7, 8}), (4, {4, 8})])
def test_with_a_discount_a_refresh_synchronises(refresh: int, exact_at: set[int]) -> None:
    belief = posterior(config=LearningConfig(discount=0.99, refresh=refresh))
    stream(belief, 40)
    off = []
    for i in range(8):
        stream(belief, 1, seed=50 + i)
        off.append(error(belief))
    assert {i + 1 for i, each in enumerate(off) if each < 1e-12} == exact_at
    assert max(off) < 0.1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 2)), min_size=1, max_size=30), st.sampled_from([1.0, 0.95]))
def test_observe_is_pull_and_mature(rewards: list[tuple[float, float]], discount: float) -> None:
    X, _ = contexts(len(rewards), 4)
    at_once, in_two = (ArmStatistics.empty(DIMENSION, discount) for _ in range(2))
    for i, (x, (reward, weight)) in enumerate(zip(X, rewards, strict=True)):
        at_once.observe(x, reward, weight, float(i))
        in_two.mature(x, in_two.pull(x, float(i)), reward, weight, float(i), was_pending=True)
    assert pytest.approx(in_two.S) == at_once.S
    assert at_once.e == pytest.approx(in_two.e)
    assert np.array_equal(at_once.S, at_once.S.T)
    for name in ("tick", "pulls", "matured", "latest", "reward_sum", "reward_square_sum", "updated", "pending"):
        assert getattr(at_once, name) == getattr(in_two, name), name


def test_what_is_pending_stays_in_the_width() -> None:
    belief = posterior()
    arm = ArmStatistics.empty(DIMENSION, 1.0)
    (x, y), _ = contexts(2, 6)
    arm.pull(x, 0.0)
    belief.put(ARM, arm)
    belief.learn(ARM, y, 1.0)
    expected = Posterior(belief.prior)
    expected.put(ARM, ArmStatistics.from_bytes(arm.to_bytes()))
    row = belief.rows([ARM])
    X, _ = contexts(5, 7)
    assert belief.widths(X, row) == pytest.approx(expected.widths(X))
    assert belief.means(X, row) == pytest.approx(expected.means(X))


def test_choices_are_those_of_a_solve_from_scratch() -> None:
    policy = create("linucb", posterior("new", config=LearningConfig(discount=1.0)), PolicyConfig(alpha=0.5))
    assert isinstance(policy, LinUCB)
    rng, (X, labels) = np.random.default_rng(1), contexts(600, 8)
    for x, label in zip(X, labels, strict=True):
        arm = [*ARMS, "new"][rng.integers(4)]
        policy.partial_fit(x, arm, float(rng.random() < (0.9 if arm == label else 0.2)))
    scratch = Posterior(policy.posterior.prior)
    for arm in policy.posterior.arms:
        scratch.put(arm, policy.posterior.statistics(arm))
    asked, _ = contexts(300, 9)
    expected = (scratch.means(asked) + 0.5 * scratch.widths(asked)).argmax(axis=1)
    assert np.array_equal(policy.select(asked), expected)
    assert [int(policy.select(x)) for x in asked] == expected.tolist()


@pytest.mark.parametrize(("x", "reward", "weight"), [(np.nan, 1.0, 1.0), (1.0, np.inf, 1.0), (1.0, 1.0, -1.0)])
def test_what_is_not_finite_changes_nothing(x: float, reward: float, weight: float) -> None:
    belief = posterior()
    before, (X, _) = belief.statistics(ARM).to_bytes(), contexts(3, 1)
    means = belief.means(X)
    with pytest.raises(ValueError, match=r"x is nan|reward is inf|weight is -1"):
        belief.learn(ARM, np.full(DIMENSION, x), reward, weight)
    assert belief.statistics(ARM).to_bytes() == before
    assert np.array_equal(belief.means(X), means)
    with pytest.raises(ValueError, match="arm is 'nobody'"):
        belief.learn("nobody", X[0], 1.0)
