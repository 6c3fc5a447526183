"""One arm over a long stream of rewards: how far its rank-one updates are from a solve from scratch."""

import numpy as np
from rich.progress import Progress

from benchmarks.speed import contenders
from policies.checks import Array
from policies.linucb import LinUCB

_D = 16
_BLOCK = 10_000


def long_stream(rewards: int, discount: float = 1.0) -> float:
    """The largest relative error of θ and W, at the end of the stream."""
    nothing = contenders.data(1, _D, 0)
    policy = contenders.ours(1, _D, nothing, discount)
    with Progress(transient=True) as progress:
        task = progress.add_task("long stream", total=rewards)
        for start in range(0, rewards, _BLOCK):
            n = min(_BLOCK, rewards - start)
            block = contenders.data(1, _D, n, seed=start)
            for x, reward in zip(block.X, block.rewards.tolist(), strict=True):
                policy.partial_fit(x, "0", reward)
            progress.advance(task, n)
    return error(policy)


def error(policy: LinUCB) -> float:
    """Relative errors of means and widths at fresh contexts, against V and b solved from scratch; the largest."""
    X = contenders.data(1, _D, 200, seed=-1 % 2**32).X
    V, b = policy.posterior.prior.with_evidence("0", policy.posterior.statistics("0"))
    widths = np.sqrt(np.einsum("nd,dn->n", X, np.linalg.solve(V, X.T)))
    theta = np.linalg.solve(V, b)
    return max(
        _relative(policy.posterior.means(X)[:, 0], X @ theta), _relative(policy.posterior.widths(X)[:, 0], widths)
    )


def _relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
