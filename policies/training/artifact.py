"""From a trained network to the artifact that serves: its weights, a PCA of the features, the supervised sums."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from policies import checks
from policies.checks import Array, Mask
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior, SupervisedStatistics, supervised_statistics
from policies.projection import Projection, normalise
from policies.supervision import Supervision
from policies.training.classifier import ClassifierConfig, held_out_rows
from policies.training.network import RouterMLP
from policies.training.poly import train_poly

_EXAMPLES = 512  # kept for policies that ask the examples themselves


def fit_context_map(
    mlp: RouterMLP,
    H: npt.ArrayLike,
    labels: Sequence[str],
    config: ClassifierConfig,
    *,
    pca: int = 16,
    temperature: float = 1.0,
    outcomes: Array | None = None,
    outcome_arms: Sequence[str] = (),
    learning: LearningConfig | None = None,
    features: Mapping[str, str | int | float | bool] | None = None,
    metrics: Mapping[str, float] | None = None,
    tasks: Sequence[str] = (),
    aside: Mask | None = None,
) -> ContextMap:
    """The artifact of a network that was trained on the features H [n,D] and labels, "" where there is none.

    `outcomes` [n, len(outcome_arms)] are measured rewards, NaN where not measured; an arm that no label names (base)
    is known by them alone, one with neither is new to the bandit. `features` says how H was made. To `metrics` come the
    held-out accuracy of the gates, and of the means of a posterior without evidence whose prior saw only the other
    examples; `aside` [n] are the held-out ones, by default those of `held_out_rows`. `tasks`, one an example and ""
    where there is none, train the table of the policy "poly".
    """
    rows = checks.array("H", H, (len(labels), None))
    projection = _projection(mlp, rows, pca, temperature, config.seed)
    X, G = projection.apply(rows)
    arms = tuple(dict.fromkeys([*mlp.arms, *sorted(set(labels) - {""}), *outcome_arms]))
    measured = _aligned(outcomes, outcome_arms, arms, len(rows))
    names = np.array(labels, dtype=np.str_)
    aside = held_out_rows(labels, config) if aside is None else aside
    judged = aside & (names != "")
    found = {}
    if judged.any():
        seen = _statistics(X[~aside], names[~aside].tolist(), arms, measured[~aside])
        means = cold_means(seen, mlp.arms, X[judged], learning or LearningConfig())
        found = {
            "mlp_accuracy": _accuracy(G[judged], mlp.arms, names[judged]),
            "cold_accuracy": _accuracy(means, mlp.arms, names[judged]),
        }
    statistics = _statistics(X, labels, arms, measured)
    supervision = _supervision(X, labels, tasks, config.seed)
    return ContextMap(mlp.arms, projection, statistics, features or {}, {**(metrics or {}), **found}, supervision)


def _statistics(X: Array, labels: Sequence[str], arms: Sequence[str], measured: Array) -> SupervisedStatistics:
    """The sums of those arms that labels or outcomes tell of; without any, only what contexts are like."""
    known = [k for k, arm in enumerate(arms) if arm in labels or not np.isnan(measured[:, k]).all()]
    if known:
        return supervised_statistics(X, labels, [arms[k] for k in known], measured[:, known])
    nothing, d = np.zeros((0, X.shape[1])), X.shape[1]
    return SupervisedStatistics((), len(X), X.T @ X / len(X), *[np.zeros((0, d, d))] * 2, *[nothing] * 2)


def cold_means(statistics: SupervisedStatistics, arms: Sequence[str], X: Array, config: LearningConfig) -> Array:
    """Means [n, len(arms)] at X [n,d] before any reward has come."""
    posterior = Posterior(Prior(statistics, config))
    for arm in arms:
        posterior.put(arm, ArmStatistics.empty(X.shape[1], config.discount))
    return posterior.means(X)


def _supervision(X: Array, labels: Sequence[str], tasks: Sequence[str], seed: int) -> Supervision:
    """A sample of the examples, and the task table if there are tasks."""
    chosen = [i for i in np.random.default_rng(seed).permutation(len(X)) if labels[i]][:_EXAMPLES]
    if not chosen:
        return Supervision()
    table = Supervision()
    told = [i for i, task in enumerate(tasks) if task and labels[i]]
    if told:
        names, arms, logits = train_poly([tasks[i] for i in told], [labels[i] for i in told], seed=seed)
        table = Supervision(arms, tasks=names, logits=logits)
    return table.with_examples(X[chosen], [labels[i] for i in chosen])


def _projection(mlp: RouterMLP, rows: Array, pca: int, temperature: float, seed: int) -> Projection:
    weights = (mlp.first.weight, mlp.first.bias, mlp.second.weight, mlp.second.bias, mlp.apart)
    W1, b1, W2, b2, apart = (weight.detach().double().numpy() for weight in weights)
    center, components = _whitening(normalise(rows), pca, seed)
    heads = apart if apart.any() else apart[:0]  # heads that have not learned are one
    return Projection(W1, b1, W2, b2, center, components, temperature, heads)


def _whitening(u: Array, m: int, seed: int) -> tuple[Array, Array]:
    """Mean [D] and the m leading directions [m,D] of u [n,D], scaled so that each has variance 1/m.

    By a randomised PCA (Halko et al. 2011): an exact one takes minutes at D = 4,097.
    """
    checks.number("pca", m, 1, min(u.shape))
    center = u.mean(axis=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        directions = torch.svd_lowrank(torch.from_numpy(u - center), min(m + 8, *u.shape), niter=4)[2].numpy()[:, :m]
    deviations = ((u - center) @ directions).std(axis=0)
    # A direction without variance would be blown up to noise; it says nothing, so it becomes zero.
    useful = deviations > 1e-6 * deviations.max()
    scales = np.where(useful, 1 / (np.where(useful, deviations, 1.0) * np.sqrt(m)), 0.0)
    return center, np.ascontiguousarray((directions * scales).T)


def _aligned(outcomes: Array | None, columns: Sequence[str], arms: Sequence[str], n: int) -> Array:
    """Outcomes [n, len(arms)] in the order of `arms`, NaN for those without a column."""
    given = np.full((n, 0), np.nan) if outcomes is None else outcomes
    if given.shape != (n, len(columns)):
        raise ValueError(f"outcomes have shape {given.shape}, expected {(n, len(columns))} for {list(columns)}")
    aligned = np.full((n, len(arms)), np.nan)
    aligned[:, [arms.index(arm) for arm in columns]] = given
    return aligned


def _accuracy(scores: Array, arms: Sequence[str], labels: npt.NDArray[np.str_]) -> float:
    return float(np.mean(np.array(arms)[scores.argmax(axis=1)] == labels))
