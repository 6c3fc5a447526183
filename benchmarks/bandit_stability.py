"""What ten million updates do to an arm: the service's own path against sums and solves from scratch.

Decisions become pending; their rewards come late and in any order, are corrected or withdrawn, or never come. Nothing
is recomputed on the way. At the end S, e, P, means and widths are compared with a solve over the same decisions,
summed block by block. With γ < 1 a decision weighs γ to the number of later ones.
"""

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.reporting import Check, report
from policies.checks import Array
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior, SupervisedStatistics

D = 16
_BLOCK = 20_000
_UNDER_WAY = 500
_GOAL = 1e-9
_PENDING, _MATURED, _OVER = range(3)


class Stream(NamedTuple):
    """What became of each decision, in their order: its state, and the reward that counts in the end."""

    state: Array
    reward: Array


class Outcome(NamedTuple):
    """The largest error of each part relative to its largest entry, after so many decisions."""

    discount: float
    decisions: int
    seconds: float
    errors: dict[str, float]


def contexts(block: int) -> Array:
    """The contexts [n,d] of a block of decisions, with a constant first entry."""
    X: Array = np.random.default_rng(block).normal(size=(_BLOCK, D)) / D**0.5
    X[:, 0] = 1.0
    return X


def live(arm: ArmStatistics, updates: int, progress: Progress) -> Stream:
    """Make at least `updates` updates of the arm, one after the other."""
    chance = np.random.default_rng(7)
    waiting: list[tuple[int, Array]] = []
    states, rewards, done, block = list[Array](), list[Array](), 0, 0
    task = progress.add_task(f"γ = {arm.discount:g}", total=updates)
    while done < updates:
        states.append(np.full(_BLOCK, _PENDING))
        rewards.append(chance.random(_BLOCK))
        picks, fates = chance.integers(0, _UNDER_WAY, _BLOCK).tolist(), chance.random(_BLOCK).tolist()
        for x, pick, fate in zip(contexts(block), picks, fates, strict=True):
            waiting.append((arm.pull(x, 0.0), x))
            done += 1
            if len(waiting) > _UNDER_WAY:
                waiting[pick], waiting[-1] = waiting[-1], waiting[pick]
                tick, x = waiting.pop()
                place, offset = divmod(tick - 1, _BLOCK)
                reward = float(rewards[place][offset])
                states[place][offset] = _end(arm, x, tick, reward, fate)
                done += 1 + (fate < 0.1)
        block += 1
        progress.update(task, completed=min(done, updates))
    return Stream(np.concatenate(states), np.concatenate(rewards))


def _end(arm: ArmStatistics, x: Array, tick: int, reward: float, fate: float) -> int:
    """How a decision ends: mostly by its reward, sometimes corrected or withdrawn later, sometimes without any."""
    if fate > 0.97:
        arm.forget(x, 0.0)
        return _OVER
    first = 1.0 - reward if fate < 0.05 else reward
    arm.mature(x, tick, first, 1.0, 0.0, was_pending=True)
    if fate < 0.05:
        arm.correct(x, tick, first, reward, 1.0, 0.0)
    elif fate < 0.1:
        arm.retract(x, tick, reward, 1.0, 0.0)
        return _OVER
    return _MATURED


def from_scratch(stream: Stream, discount: float) -> tuple[Array, Array, Array]:
    """S, e, P over all decisions of the stream."""
    n = len(stream.state)
    S, e, P = np.zeros((D, D)), np.zeros(D), np.zeros((D, D))
    for start in range(0, n, _BLOCK):
        X, part = contexts(start // _BLOCK), slice(start, start + _BLOCK)
        weights = discount ** (n - 1.0 - np.arange(start, start + _BLOCK)) * (stream.state[part] == _MATURED)
        S += (X * weights[:, np.newaxis]).T @ X
        e += X.T @ (weights * stream.reward[part])
        waiting = X[stream.state[part] == _PENDING]
        P += waiting.T @ waiting
    return S, e, P


def measure(discount: float, updates: int, progress: Progress) -> Outcome:
    """Live through the updates and compare."""
    arm, began = ArmStatistics.empty(D, discount), time.perf_counter()
    stream = live(arm, updates, progress)
    seconds = time.perf_counter() - began
    S, e, P = from_scratch(stream, discount)
    nothing = SupervisedStatistics((), 1, np.eye(D), *(np.zeros((0, D, D)),) * 2, *(np.zeros((0, D)),) * 2)
    posterior = Posterior(Prior(nothing, LearningConfig(discount=discount, new_arm_weight=0.0, new_arm_mean=0.0)))
    posterior.put("arm", arm)
    X = contexts(10**6)[:200]
    V = S + np.eye(D)
    means, widths = X @ np.linalg.solve(V, e), np.sqrt(np.einsum("nd,dn->n", X, np.linalg.solve(V + P, X.T)))
    pairs = {
        "S": (arm.S, S),
        "e": (arm.e, e),
        "P": (arm.P, P),
        "means": (posterior.means(X)[:, 0], means),
        "widths": (posterior.widths(X)[:, 0], widths),
    }
    errors = {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}
    return Outcome(discount, len(stream.state), seconds, errors)


def _table(outcomes: list[Outcome]) -> Table:
    names = list(outcomes[0].errors)
    table = Table("γ", "decisions", "s", *names, title="largest relative error", title_justify="left")
    for one in outcomes:
        errors = (f"{one.errors[name]:.1e}" for name in names)
        table.add_row(f"{one.discount:g}", f"{one.decisions:,}", f"{one.seconds:.0f}", *errors)
    return table


def main(
    updates: Annotated[int, typer.Option(min=1, help="Updates at each γ.")] = 10_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="200,000 instead.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the raw figures here.")] = None,
) -> None:
    """Ten million updates of an arm at γ = 1 and γ = 0.998, against a solve from scratch."""
    wanted = 200_000 if quick else updates
    with Progress(console=Console(stderr=True)) as progress:
        outcomes = [measure(discount, wanted, progress) for discount in (1.0, 0.998)]
    checks = [
        Check(f"{name} at γ = {one.discount:g}", error, f"at most {_GOAL:g}", error <= _GOAL)
        for one in outcomes
        for name, error in one.errors.items()
    ]
    figures: dict[str, Any] = {"updates": wanted, "outcomes": [one._asdict() for one in outcomes]}
    report(f"{wanted:,} updates, d = {D}", _table(outcomes), checks, json_file, **figures)


if __name__ == "__main__":
    typer.run(main)
