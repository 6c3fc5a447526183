"""q̂(x, a), the rewards that DR starts from: one ridge regression an arm, never asked about what it was fitted on."""

import numpy as np

from policies.checks import Array, Rows

_RIDGE = 30.0  # in decisions: an arm tried ten times is not yet known to be unlike the others


def cross_fitted(X: Array, action: Rows, reward: Array, part: Rows, arms: int) -> Array:
    """Q [n,K] for contexts X [n,d] with the reward [n] of `action` [n]; each `part` [n] is predicted from the others.

    An arm that was never tried elsewhere gets the mean reward. Predictions stay within the rewards' range.
    """
    Q = np.empty((len(X), arms))
    for fold in np.unique(part):
        held_out = part == fold
        Q[held_out] = _predict(X[held_out], X[~held_out], action[~held_out], reward[~held_out], arms)
    return np.clip(Q, reward.min(), reward.max())


def _predict(X: Array, seen: Array, action: Rows, reward: Array, arms: int) -> Array:
    mean = reward.mean() if len(reward) else 0.5
    theta = np.zeros((X.shape[1], arms))
    ridge = _RIDGE * np.eye(X.shape[1])
    for arm in np.unique(action):
        rows = seen[action == arm]
        theta[:, arm] = np.linalg.solve(rows.T @ rows + ridge, rows.T @ (reward[action == arm] - mean))
    predicted: Array = mean + X @ theta
    return predicted
