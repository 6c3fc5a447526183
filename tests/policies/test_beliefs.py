"""Of many arms only some widths are computed; where the bound proves it, the choice is the one with all of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Context, PolicyConfig, create
from policies.base import Array
from policies.beliefs import believe
from policies.evidence import ArmStatistics
from policies.linucb import LinUCB
from policies.posterior import Posterior
from policies.prior import LearningConfig
from policies.request import Beliefs
from tests.policies.worlds import DIMENSION, contexts, prior

K = 40
FREE = np.zeros(K)


def crowd(seed: int, pulls: int) -> Posterior:
    """Forty arms, each rewarded `pulls` times at a rate of its own."""
    belief, rng = Posterior(prior(LearningConfig(discount=1.0))), np.random.default_rng(seed)
    for k in range(K):
        arm = ArmStatistics.empty(DIMENSION, 1.0)
        belief.put(f"arm{k}", arm)
        for x in contexts(pulls, seed + k)[0]:
            belief.learn(f"arm{k}", x, float(rng.random() < k / K))
    return belief


def beliefs(posterior: Posterior, X: Array, config: PolicyConfig) -> Beliefs:
    return believe(posterior, X, posterior.rows(posterior.arms), FREE, config)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 12), st.floats(0, 1))
def test_what_is_proven_is_the_choice_with_all_widths(seed: int, pulls: int, top: int, alpha: float) -> None:
    posterior, (X, _) = crowd(seed, pulls), contexts(10, seed + 1)
    some = beliefs(posterior, X, PolicyConfig(alpha=alpha, burn_in=0, all_widths=K - 1, top_widths=top))
    every = beliefs(posterior, X, PolicyConfig(alpha=alpha, burn_in=0, all_widths=K))
    best = every.optimism.argmax(axis=1)
    assert every.proven.all()
    assert np.array_equal(some.optimism.argmax(axis=1)[some.proven], best[some.proven])
    assert ((some.widths > 0).sum(axis=1) == top).all()
    known = some.widths > 0
    assert np.allclose(some.widths[known], every.widths[known])
    assert np.array_equal(some.means, every.means)


def test_the_bound_proves_most_choices_once_the_arms_are_known() -> None:
    posterior, (X, _) = crowd(3, 60), contexts(50, 4)
    some = beliefs(posterior, X, PolicyConfig(alpha=0.05, burn_in=0, all_widths=K - 1, top_widths=12))
    assert some.proven.mean() > 0.5


def test_new_arms_always_have_their_widths() -> None:
    posterior, (X, _) = crowd(5, 30), contexts(10, 6)
    posterior.put("new", ArmStatistics.empty(DIMENSION, 1.0))
    config = PolicyConfig(burn_in=5, all_widths=K, top_widths=3)
    some = believe(posterior, X, posterior.rows(posterior.arms), np.zeros(K + 1), config)
    assert (some.widths[:, -1] > 0).all()
    assert ((some.widths > 0).sum(axis=1) <= 4).all()


def test_a_request_has_the_same_widths_alone_and_in_a_batch() -> None:
    posterior, (X, _) = crowd(7, 20), contexts(12, 8)
    config = PolicyConfig(alpha=0.5, burn_in=0, all_widths=K - 1, top_widths=4)
    together = beliefs(posterior, X, config)
    for i, x in enumerate(X):
        alone = beliefs(posterior, x[np.newaxis], config)
        assert np.allclose(alone.optimism[0], together.optimism[i])
        assert alone.proven[0] == together.proven[i]


def test_the_settings_reach_the_decision() -> None:
    posterior, (X, _) = crowd(9, 30), contexts(1, 2)
    computed = {}
    for all_widths, top in ((K, 5), (K - 1, 5), (K - 1, 9)):
        config = PolicyConfig(alpha=0.3, burn_in=0, all_widths=all_widths, top_widths=top)
        policy = create("linucb", posterior, config)
        assert isinstance(policy, LinUCB)
        choice = policy.decide(Context(X[0], {}), eligible=posterior.arms, costs={}, seed="s")
        computed[all_widths, top] = int((choice.widths > 0).sum())
        assert int(policy.select(X[0])) == int(choice.scores.argmax())
    assert computed == {(K, 5): K, (K - 1, 5): 5, (K - 1, 9): 9}
