import numpy as np
import pytest

from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig
from tests.policies.worlds import ARMS, DIMENSION, contexts, posterior, prior


def experienced(seed: int, pending: int = 4) -> ArmStatistics:
    """Twenty matured decisions and some pending ones, under a version that halved the prior."""
    arm, (X, _) = ArmStatistics.empty(DIMENSION, 0.95, "old"), contexts(20 + pending, seed)
    arm.new_version("new", 0.5)
    for i, x in enumerate(X):
        tick = arm.pull(x, float(i))
        if i < 20:
            arm.mature(x, tick, float(i % 3 == 0), 0.7, float(i), was_pending=True)
    return arm


@pytest.mark.parametrize("pending", [0, 4])
def test_means_and_widths_solve_the_ridge_regression(pending: int) -> None:
    belief, arm = posterior(), experienced(3, pending)
    belief.put("claims", arm)
    V0, b0 = belief.prior.of("claims")
    V = 0.5 * V0 + 0.5 * LearningConfig().ridge * np.eye(DIMENSION) + arm.S
    theta = np.linalg.solve(V, 0.5 * b0 + arm.e)
    X, _ = contexts(10, seed=9)
    k = belief.rows(["claims"])[0]
    assert belief.means(X)[:, k] == pytest.approx(X @ theta)
    widths = [np.sqrt(x @ np.linalg.solve(V + arm.P, x)) for x in X]
    assert belief.widths(X)[:, k] == pytest.approx(widths)


def test_one_context_and_a_batch_agree() -> None:
    belief, (X, _) = posterior("new"), contexts(7, seed=9)
    assert belief.means(X).shape == belief.widths(X).shape == (7, 4)
    for i, x in enumerate(X):
        assert belief.means(x) == pytest.approx(belief.means(X)[i])
        assert belief.widths(x) == pytest.approx(belief.widths(X)[i])


def test_overlay_equals_one_more_pending_decision() -> None:
    overlaid, recomputed = posterior(), posterior()
    (X, _), arm = contexts(10, seed=2), experienced(3)
    overlaid.put("inbox", arm)
    means, widths = overlaid.means(X), overlaid.widths(X)
    for x in X[:5]:
        overlaid.overlay("inbox", x)
    later = ArmStatistics.from_bytes(arm.to_bytes())
    for x in X[:5]:
        later.P += np.outer(x, x)
        later.pending += 1
    recomputed.put("inbox", later)
    assert overlaid.widths(X) == pytest.approx(recomputed.widths(X), rel=1e-9)
    assert np.array_equal(overlaid.means(X), means)
    assert np.all(overlaid.widths(X)[:, 2] < widths[:, 2])
    overlaid.put("inbox", arm)
    assert np.array_equal(overlaid.widths(X), widths)


def test_arms_come_and_go_without_touching_the_others() -> None:
    names = [f"arm{i}" for i in range(20)]
    belief = Posterior(prior())
    alone = {}
    X, _ = contexts(5, seed=4)
    for i, name in enumerate(names):
        belief.put(name, experienced(i))
        single = Posterior(prior())
        single.put(name, experienced(i))
        alone[name] = (single.means(X)[:, 0], single.widths(X)[:, 0])
    for name in ("arm0", "arm19", "arm7"):
        belief.remove(name)
    belief.put("arm7", experienced(7))
    assert set(belief.arms) == set(names) - {"arm0", "arm19"}
    for name in belief.arms:
        row = belief.rows([name])[0]
        assert belief.arms[row] == name
        assert belief.means(X)[:, row] == pytest.approx(alone[name][0])
        assert belief.widths(X)[:, row] == pytest.approx(alone[name][1])
        assert belief.statistics(name).pulls == 24


def test_only_arms_without_labels_burn_in() -> None:
    belief = posterior("new")
    assert belief.burning_in(3)[belief.rows([*ARMS, "new"])].tolist() == [False, False, False, True]
    assert not belief.burning_in(0).any()


def test_rewards_outweigh_the_prior() -> None:
    belief, (X, labels) = posterior(), contexts(400, seed=6)
    family = X[[label == "calendar" for label in labels]]
    failing = ArmStatistics.empty(DIMENSION, 1.0)
    for x in family:
        failing.mature(x, failing.pull(x, 0.0), 0.0, 1.0, 0.0, was_pending=True)
    cold = belief.means(family)[:, 0].mean()
    belief.put("calendar", failing)
    assert cold > 0.8
    assert belief.means(family)[:, 0].mean() < 0.5
