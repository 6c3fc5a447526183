"""What each policy ranks by, and what all of them have in common: exact propensities, batches, and no side effects."""

from collections import Counter
from dataclasses import replace
from math import erf

import numpy as np
import pytest

from policies import Choice, Context, Policy, PolicyConfig, create
from policies.base import Array
from policies.evidence import ArmStatistics
from policies.knn import KNN
from policies.supervision import Supervision
from tests.policies.worlds import ARMS, DIMENSION, context, contexts, posterior

NAMES = ["fixed", "greedy", "knn", "lints", "linucb", "mlp", "poly", "retrieval"]
ELIGIBLE = (*ARMS, "new")
PLAIN = PolicyConfig(alpha=0.0, epsilon_supervised=0.0, epsilon_uniform=0.0, fixed_arm="inbox")
MIXED = PolicyConfig(alpha=1.0, epsilon_supervised=0.1, epsilon_uniform=0.2, fixed_arm="inbox", samples=200)
TASKS = Supervision(
    ARMS, tasks=("sort", "plan"), logits=np.array([[[-3.0, 3.0, -3.0], [-3.0, 1.0, 1.0]], [[3.0, -3.0, -3.0]] * 2])
)


def supervision(n: int = 200) -> Supervision:
    X, labels = contexts(n, seed=11)
    return TASKS.with_examples(X, labels)


def made(name: str, config: PolicyConfig = PLAIN, *extra: str) -> Policy:
    return create(name, posterior(*(extra or ("new",))), config, supervision())


def ask(policy: Policy, seen: Context, seed: str = "s", eligible: tuple[str, ...] = ELIGIBLE) -> Choice:
    return policy.decide(seen, eligible=eligible, costs={}, seed=seed)


def requests(n: int) -> list[Context]:
    X, labels = contexts(n, seed=21)
    gates = [{arm: 0.8 if arm == label else 0.1 for arm in ARMS} for label in labels]
    tasks = [None, "sort", "plan", "unheard"]
    return [Context(x, each, tasks[i % 4]) for i, (x, each) in enumerate(zip(X, gates, strict=True))]


@pytest.mark.parametrize("name", NAMES)
def test_frequencies_and_propensities_agree_with_the_distribution(name: str) -> None:
    policy, n = made(name, MIXED), 4_000
    (p,) = policy.distribution([context()], eligible=ELIGIBLE, costs={})
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    choices = [ask(policy, context(), str(i)) for i in range(n)]
    counts = Counter(choice.arm for choice in choices)
    for arm, probability in zip(ELIGIBLE, p, strict=True):
        deviation = np.sqrt(probability * (1 - probability) / n)
        assert counts[arm] / n == pytest.approx(probability, abs=4.5 * deviation + 1e-12)
    for choice in choices:
        assert choice.propensity == pytest.approx(p[ELIGIBLE.index(choice.arm)], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_explores_what_the_bandit_holds_possible(name: str) -> None:
    """So the log of a supervised policy says something of the bandit, too."""
    policy = made(name, MIXED)
    choice = ask(policy, context())
    optimism = choice.means + MIXED.alpha * choice.widths
    reached = optimism >= optimism.max() - 2 * MIXED.alpha * choice.widths[optimism.argmax()]
    (p,) = policy.distribution([context()], eligible=ELIGIBLE, costs={})
    assert (p[reached] > 0).all()
    assert p[ELIGIBLE.index("new")] > 0  # it burns in


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_same_choices(name: str) -> None:
    policy, seen = made(name, MIXED), requests(24)
    seeds = [f"e{i}" for i in range(24)]
    batch = policy.decide_batch(seen, eligible=ELIGIBLE, costs={"inbox": 30.0}, seeds=seeds)
    for choice, one, seed in zip(batch, seen, seeds, strict=True):
        alone = policy.decide(one, eligible=ELIGIBLE, costs={"inbox": 30.0}, seed=seed)
        assert (choice.arm, choice.explored, choice.supervised, choice.course.branch) == (
            alone.arm, alone.explored, alone.supervised, alone.course.branch,
        )  # fmt: skip
        assert choice.propensity == pytest.approx(alone.propensity, abs=1e-12)
        for field in ("means", "widths", "costs", "scores"):
            assert getattr(choice, field) == pytest.approx(getattr(alone, field), abs=1e-12)
    assert policy.decide_batch([], eligible=ELIGIBLE, costs={}, seeds=[]) == []


@pytest.mark.parametrize("name", NAMES)
def test_deciding_changes_nothing(name: str) -> None:
    """Any policy may run beside the one that serves."""
    policy = made(name, MIXED)
    before = [policy.posterior.statistics(arm).to_bytes() for arm in ELIGIBLE]
    scored = policy.predict_expectations(requests(5), eligible=ELIGIBLE, costs={})
    first = [ask(policy, one, str(i)).arm for i, one in enumerate(requests(40))]
    assert [ask(policy, one, str(i)).arm for i, one in enumerate(requests(40))] == first
    assert np.array_equal(policy.predict_expectations(requests(5), eligible=ELIGIBLE, costs={}), scored)
    assert [policy.posterior.statistics(arm).to_bytes() for arm in ELIGIBLE] == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arm", ARMS)
def test_one_eligible_arm_is_certain(name: str, arm: str) -> None:
    choice = ask(made(name, MIXED), context(), eligible=(arm,))
    assert (choice.arm, choice.propensity, choice.explored, choice.supervised) == (arm, 1.0, False, arm)


@pytest.mark.parametrize("name", NAMES)
def test_waiting_costs(name: str) -> None:
    policy = made(name, replace(PLAIN, cost_per_ms=1e-3))
    best = ask(policy, context(0)).arm
    moved = policy.decide(context(0), eligible=ELIGIBLE, costs={best: 5_000.0}, seed="s").arm
    assert moved == best if name == "fixed" else moved != best


@pytest.mark.parametrize("name", ["knn", "poly"])
def test_what_a_policy_cannot_do_without(name: str) -> None:
    with pytest.raises(ValueError, match=f"policy '{name}' has 0"):
        create(name, posterior(), PLAIN)


@pytest.mark.parametrize("name", ["greedy", "knn", "retrieval", "linucb", "lints"])
@pytest.mark.parametrize("family", range(3))
def test_the_labelled_arm_serves(name: str, family: int) -> None:
    choice = ask(made(name), context(family))
    assert (choice.arm, choice.propensity) == (ARMS[family], 1.0)


def test_mlp_follows_the_gates_and_ignores_rewards() -> None:
    policy = made("mlp")
    before = ask(policy, context(0))
    bad = ArmStatistics.empty(DIMENSION, 1.0)
    bad.mature(context(0).x, bad.pull(context(0).x, 0.0), 0.0, 1000.0, 0.0, was_pending=True)
    policy.posterior.put("claims", bad)
    after = ask(policy, context(0))
    assert before.arm == after.arm == "claims"
    assert after.scores.tolist() == [0.2, 0.7, 0.1, 0.0]
    assert after.means[1] < before.means[1]  # what the bandit believes is still seen


def test_fixed_serves_one_arm_and_otherwise_the_best_of_the_rest() -> None:
    policy = made("fixed")
    choice = ask(policy, context(0))
    assert (choice.arm, choice.propensity, choice.explored, choice.supervised) == ("inbox", 1.0, False, "claims")
    assert choice.means.argmax() == 0
    assert ask(policy, context(0), eligible=("claims", "calendar")).arm == "calendar"


def test_greedy_leaves_the_widths_out() -> None:
    wide = replace(PLAIN, alpha=50.0)
    twin = ("calendar", "new")
    assert ask(made("linucb", wide), context(0), eligible=twin).arm == "new"
    assert ask(made("greedy", wide), context(0), eligible=twin).arm == "calendar"


class TestLinTS:
    def test_an_arm_is_wanted_as_often_as_it_is_believed_to_be_the_best(self) -> None:
        """Two arms: the probability has a closed form, and the stated error holds."""
        config = replace(PLAIN, alpha=1.0, samples=4_000)
        policy, seen = made("lints", config), context(0)
        choice = ask(policy, seen, eligible=("calendar", "new"))
        gap = (choice.means[0] - choice.means[1]) / np.hypot(*choice.widths)
        wanted = 0.5 * (1 + erf(gap / np.sqrt(2)))
        (p,) = policy.distribution([seen], eligible=("calendar", "new"), costs={})
        assert choice.error == pytest.approx(np.sqrt(choice.propensity * (1 - choice.propensity) / 4_000))
        assert p[0] == pytest.approx(wanted, abs=4 * choice.error)

    def test_the_mixing_is_in_the_error(self) -> None:
        assert ask(made("linucb", MIXED), context()).error == 0.0
        policy = made("lints", MIXED)
        own = 0.7
        for i in range(20):
            choice = ask(policy, context(), str(i))
            target = policy.target(*policy._scored([context()], ELIGIBLE, {}))[0, ELIGIBLE.index(choice.arm)]
            assert choice.error == pytest.approx(own * np.sqrt(target * (1 - target) / 200))

    def test_without_widths_it_is_greedy(self) -> None:
        policy, greedy = made("lints"), made("greedy")
        assert [ask(policy, one).arm for one in requests(30)] == [ask(greedy, one).arm for one in requests(30)]


class TestKNN:
    def test_votes_of_the_nearest(self) -> None:
        X, labels = contexts(60, seed=5)
        policy = create("knn", posterior("new"), replace(PLAIN, neighbours=5), Supervision().with_examples(X, labels))
        x = context(1).x
        nearest = np.argsort(np.linalg.norm(X - x, axis=1))[:5]
        shares = [sum(labels[i] == arm for i in nearest) / 5 for arm in ARMS]
        assert ask(policy, Context(x, {})).scores.tolist() == pytest.approx([*shares, 0.0])

    def test_more_examples_change_its_mind(self) -> None:
        policy = made("knn")
        assert isinstance(policy, KNN)
        x = context(1).x
        assert ask(policy, Context(x, {})).arm == "claims"
        policy.partial_fit(np.repeat(x[None], 15, axis=0), ["new"] * 15)
        assert ask(policy, Context(x, {})).arm == "new"
        policy.fit(np.repeat(x[None], 2, axis=0), ["inbox"] * 2)
        assert ask(policy, Context(x, {})).arm == "inbox"


class TestRetrieval:
    def test_score_is_the_cosine_to_the_mean_example(self) -> None:
        policy, x = made("retrieval"), requests(1)[0].x
        X, labels = contexts(300, seed=0)  # the examples of `worlds.prior`
        scores = ask(policy, Context(x, {})).scores
        for k, arm in enumerate(ARMS):
            mean = X[[label == arm for label in labels]].mean(axis=0)[1:]
            assert scores[k] == pytest.approx(mean @ x[1:] / np.linalg.norm(mean) / np.linalg.norm(x[1:]))
        assert scores[3] == -1.0


class TestPoly:
    def test_weights_of_the_task(self) -> None:
        policy = made("poly")
        sigmoids = 1 / (1 + np.exp(-TASKS.logits))
        weights = (sigmoids / sigmoids.sum(axis=2, keepdims=True)).mean(axis=1)
        for task, row in (
            ("sort", weights[0]),
            ("plan", weights[1]),
            ("other", weights.mean(axis=0)),
            (None, weights.mean(0)),
        ):
            choice = ask(policy, context()._replace(task=task))
            assert choice.scores.tolist() == pytest.approx([*row, 0.0])
        assert ask(policy, context()._replace(task="sort")).arm == "claims"
        assert ask(policy, context()._replace(task="plan")).arm == "calendar"


def test_supervision_finds_the_nearest_examples() -> None:
    known = Supervision().with_examples(np.array([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), ["a", "b", "c"])
    assert known.nearest(np.array([1.0, 0.0]), 2) == [("a", 0.0), ("c", 1.0)]
    with pytest.raises(ValueError, match="labels run from 0 to 2, expected 0 to 1"):
        replace(known, arms=("a", "b"))
    with pytest.raises(ValueError, match="logits has shape"):
        Supervision(ARMS, tasks=("t",), logits=np.zeros((1, 1, 2)))


def test_columns_follow_the_arms() -> None:
    values: Array = np.array([[0.1, 0.2, 0.7]])
    assert Supervision(ARMS).columns(values, ("inbox", "new", "calendar")).tolist() == [[0.7, 0.0, 0.1]]
