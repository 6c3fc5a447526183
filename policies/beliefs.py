"""Means and widths of the arms that a request may get; of many arms, widths only where they can matter."""

import numpy as np

from policies.checks import Array, Mask, Rows
from policies.config import PolicyConfig
from policies.posterior import Posterior
from policies.request import Beliefs


def believe(posterior: Posterior, X: Array, rows: Rows, penalties: Array, config: PolicyConfig) -> Beliefs:
    """What the posterior says at X [B,d] of the arms `rows` [K] whose waiting costs `penalties` [K], in reward.

    Above `all_widths` arms, a request gets the widths of its `top_widths` best arms by mean − penalty and of new arms
    only. No width exceeds ‖x‖/√λ, so the best optimistic score is proven where the bound of every other arm stays below
    it. Elsewhere the choice is the best among the arms whose widths are known.
    """
    means = posterior.means(X, rows)
    sure = means - penalties
    if len(rows) <= config.all_widths:
        widths = posterior.widths(X, rows)
        return Beliefs(means, widths, sure + config.alpha * widths, np.ones(len(X), dtype=np.bool_))
    near = _near(sure, config.top_widths) | posterior.burning_in(config.burn_in)[rows]
    widths = _widths(posterior, X, rows, near)
    optimism = sure + config.alpha * widths
    bound = np.where(near, -np.inf, sure).max(axis=1) + config.alpha * posterior.widest(X)
    return Beliefs(means, widths, optimism, bound <= optimism.max(axis=1))


def _near(sure: Array, top: int) -> Mask:
    """[B,K]: the `top` largest of each row."""
    near = np.zeros(sure.shape, dtype=np.bool_)
    k = min(top, sure.shape[1])
    np.put_along_axis(near, np.argpartition(-sure, k - 1, axis=1)[:, :k], True, axis=1)
    return near


def _widths(posterior: Posterior, X: Array, rows: Rows, near: Mask) -> Array:
    """[B,K]: the widths of the arms `near` each request, 0 elsewhere."""
    columns = np.flatnonzero(near.any(axis=0))
    widths = np.zeros(near.shape)
    widths[:, columns] = posterior.widths(X, rows[columns])
    return np.where(near, widths, 0.0)
