"""How the reward of an episode, one observation, is shared among its decisions. It shapes learning, nothing else."""

from typing import Literal

import numpy as np

Scheme = Literal["equal", "last", "discounted"]


def credit(scheme: Scheme, n: int, discount: float) -> list[float]:
    """Weights [n] of an episode's decisions, first to last; they sum to 1.

    equal: 1/n each.  last: the last decision alone.  discounted: each `discount` times the next one.
    """
    if scheme == "last":
        return [0.0] * (n - 1) + [1.0] if n else []
    base = 1.0 if scheme == "equal" else discount
    powers = base ** np.arange(n - 1, -1, -1.0)
    return (powers / powers.sum()).tolist() if n else []
