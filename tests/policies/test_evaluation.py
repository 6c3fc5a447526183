"""Off-policy evaluation: unbiased where it should be, episodes as units, and a refusal where the log cannot know."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policies.checks import Array
from policies.evaluation import Log, NotEvaluable, effective_size, evaluate

K = 3


def success(X: Array) -> Array:
    """The chance [n,K] of each arm."""
    chance: Array = 1 / (1 + np.exp(-2 * X[:, 1:4]))
    return chance


def make_log(n: int = 4000, *, steps: int = 1, seed: int = 0, **changes: Any) -> Log:
    """Half of it uniform, half arm 0; an episode's reward is the mean of its steps' outcomes."""
    rng = np.random.default_rng(seed)
    X = np.hstack([np.ones((n, 1)), rng.normal(size=(n, 4))])
    p = np.full((n, K), 0.5 / K) + 0.5 * np.eye(K)[0]
    action = (rng.random((n, 1)) > p.cumsum(1)).sum(1)
    rows = np.arange(n)
    outcome = (rng.random(n) < success(X)[rows, action]).astype(float)
    values: dict[str, Any] = {
        "X": X, "eligible": np.ones((n, K), dtype=bool), "action": action, "propensity": p[rows, action],
        "unit": rows // steps, "reward": outcome.reshape(-1, steps).mean(1),
    }  # fmt: skip
    return Log(**values | changes)


def best(X: Array) -> Array:
    """The policy that knows."""
    target: Array = np.eye(K)[success(X).argmax(1)]
    return target


def always(arm: int) -> Callable[[Array], Array]:
    return lambda X: np.tile(np.eye(K)[arm], (len(X), 1))


@pytest.mark.parametrize("policy", [best, always(1), lambda X: np.full((len(X), K), 1 / K)])
@pytest.mark.parametrize("steps", [1, 2])
def test_estimates_are_near_the_truth_and_so_are_their_intervals(policy: Callable[[Array], Array], steps: int) -> None:
    everything = make_log(200_000).X
    truth = float((success(everything) * policy(everything)).sum(1).mean())
    log = make_log(20_000, steps=steps)
    found = evaluate(log, policy(log.X), level=0.999)
    for name in ("ips", "snips", "dr"):
        value, low, high = found.estimates[name]
        assert low < truth < high, name
        assert low < value < high
        assert high - low < 0.16 * steps
    assert found.mean_weight == pytest.approx(1, abs=0.1)
    assert found.units == 20_000 // steps


def test_dr_is_the_narrowest_where_contexts_tell() -> None:
    log = make_log(20_000)
    widths = {name: high - low for name, (_, low, high) in evaluate(log, best(log.X)).estimates.items()}
    assert widths["dr"] < widths["snips"] < widths["ips"]


def rarely_explored(rng: np.random.Generator, n: int = 4000) -> Log:
    """Arm 0 but for one decision in a hundred; where x₁ > 1, arm 1 succeeds less often than q̂ can learn from so few."""
    X = np.hstack([np.ones((n, 1)), rng.normal(size=(n, 4))])
    action = (rng.random(n) < 0.01).astype(int)
    outcome = (rng.random(n) < np.where(action == 0, 0.9, 0.8)).astype(float)
    propensity = np.where(action == 0, 0.99, 0.01)
    return Log(X, np.ones((n, 2), dtype=bool), action, propensity, np.arange(n), outcome)


def test_few_units_that_weigh_much_do_not_bound_dr() -> None:
    """Some six units of 4,000 weigh a hundred and carry the whole difference between the policies."""
    covered, logs = {"snips": 0, "dr": 0}, 200
    for seed in range(logs):
        log = rarely_explored(np.random.default_rng(seed))
        elsewhere = log.X[:, 1] > 1
        truth = float(np.where(elsewhere, 0.8, 0.9).mean())
        found = evaluate(log, np.eye(2)[elsewhere.astype(int)], least=1)
        for name in covered:
            covered[name] += found.estimates[name].low <= truth <= found.estimates[name].high
    assert min(covered.values()) >= 0.92 * logs, covered


def test_what_a_log_says_of_its_own_policy_is_its_mean() -> None:
    log = make_log()
    own = np.full((4000, K), 0.5 / K) + 0.5 * np.eye(K)[0]
    found = evaluate(log, own)
    for name in ("ips", "snips"):
        assert found.estimates[name].value == pytest.approx(log.reward.mean())
    assert (found.effective, found.mean_weight) == pytest.approx((4000, 1))


def test_replay_is_the_mean_where_the_choices_agree() -> None:
    log = make_log()
    agrees = log.action == 1
    found = evaluate(log, always(1)(log.X))
    assert found.estimates["replay"].value == pytest.approx(log.reward[agrees].mean())
    assert found.matched == pytest.approx(agrees.mean())


def test_an_episode_weighs_the_product_of_its_decisions() -> None:
    """Two steps of arm 1: weights 1/(1/6)² or 0; every decision is one row of one unit."""
    log = make_log(steps=2)
    both = (log.action.reshape(-1, 2) == 1).all(1)
    found = evaluate(log, always(1)(log.X))
    assert found.matched == pytest.approx(both.mean())
    assert found.estimates["snips"].value == pytest.approx(log.reward[both].mean())
    assert found.estimates["ips"].value == pytest.approx((36 * both * log.reward).mean())


def test_the_rows_of_an_episode_may_be_mixed_with_others() -> None:
    log = make_log(steps=2)
    order = np.argsort(np.random.default_rng(1).random(2000)[log.unit] + 0.5 * (np.arange(4000) % 2), kind="stable")
    mixed = Log(
        log.X[order], log.eligible[order], log.action[order], log.propensity[order], log.unit[order], log.reward
    )
    one, other = evaluate(log, best(log.X)), evaluate(mixed, best(mixed.X))
    for name in one.estimates:
        assert one.estimates[name] == pytest.approx(other.estimates[name], abs=1e-4)


def test_probability_on_arms_that_were_not_eligible_is_spread_over_the_others() -> None:
    log = make_log()
    eligible = log.eligible.copy()
    eligible[log.action != 2, 2] = False
    narrow = make_log(eligible=eligible)
    target = np.tile([0.25, 0.25, 0.5], (4000, 1))
    spread = np.where(eligible, target, 0) / np.where(eligible, target, 0).sum(1, keepdims=True)
    assert evaluate(narrow, target).estimates == evaluate(narrow, spread).estimates


def test_decisions_without_a_choice_are_left_out() -> None:
    log = make_log()
    eligible = log.eligible.copy()
    alone = np.arange(4000) % 4 == 0
    eligible[alone] = np.eye(K, dtype=bool)[log.action[alone]]
    some = make_log(eligible=eligible)
    found = evaluate(some, best(some.X))
    assert (found.decisions, found.left_out) == (3000, 1000)
    assert found.estimates == evaluate(some.of(~alone), best(some.X[~alone])).estimates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propensity": np.full(4000, np.nan)}, "propensity is missing .* in 4000 of 4000"),
        ({"propensity": np.zeros(4000)}, "propensity is missing"),
        ({"propensity": np.ones(4000)}, "100% of the decisions were taken without exploration"),
        ({"eligible": np.eye(K, dtype=bool)[make_log().action]}, "nothing to evaluate on"),
    ],
)
def test_a_log_that_cannot_know_is_refused(changes: dict[str, Any], message: str) -> None:
    log = make_log(**changes)
    with pytest.raises(NotEvaluable, match=message):
        evaluate(log, best(log.X))


def test_a_policy_that_goes_where_the_log_never_went_is_refused() -> None:
    """The log explores arms 0 and 1 only; its propensities say nothing of that."""
    log = make_log()
    rows = log.action < 2
    narrow = Log(log.X, log.eligible, log.action, log.propensity * 6 / 5, log.unit, log.reward).of(rows)
    with pytest.raises(NotEvaluable, match=r"expected 1: about \d+% of the policy's choices had no chance"):
        evaluate(narrow, best(narrow.X))
    assert evaluate(narrow, always(1)(narrow.X)).units == rows.sum()


def test_too_few_of_the_policys_choices_are_refused() -> None:
    log = make_log(60)
    with pytest.raises(NotEvaluable, match=r"effective sample size is \d+\.\d of 60, expected at least 30"):
        evaluate(log, always(1)(log.X))
    assert evaluate(log, always(1)(log.X), least=1).effective < 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.full(4000, 1.5)}, r"reward runs from 1.5 to 1.5, expected \[0, 1\]"),
        ({"unit": np.zeros(4000, int)}, "expected a reward for each unit"),
        ({"propensity": np.ones(3)}, "propensity has 3 rows, expected 4000"),
        ({"X": np.full((4000, 2), np.inf)}, "X is inf"),
        ({"eligible": np.zeros((4000, K), dtype=bool)}, "not eligible"),
    ],
)
def test_a_log_that_contradicts_itself_is_no_log(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_log(**changes)


def test_a_target_without_probability_is_named() -> None:
    log = make_log()
    with pytest.raises(ValueError, match="target has rows without probability"):
        evaluate(log, np.zeros((4000, K)))


def test_effective_size() -> None:
    assert effective_size(np.ones(7)) == 7
    assert effective_size(np.array([3.0, 0.0, 0.0])) == 1
    assert effective_size(np.zeros(2)) == 0
