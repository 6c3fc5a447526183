"""Many learners over many seeds of every world, on a few processes; the tuning before that goes the same way."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, as_completed
from typing import Final

import numpy as np

from benchmarks.regret.learners import GRIDS, Values, grid, run
from benchmarks.regret.scenarios import SCENARIOS
from benchmarks.regret.simulation import Lived

TUNING_SEEDS: Final = tuple(range(1000, 1006))

Tuned = Mapping[str, Mapping[str, Values]]
"""By world and learner."""


def measure(
    pool: Executor, tuned: Tuned, seeds: Iterable[int], steps: int, advance: Callable[[], None]
) -> dict[str, Lived]:
    """Every learner of `tuned` in each of its worlds, on the same seeds."""
    seeds = list(seeds)
    jobs = {pool.submit(_live, world, seed, steps, tuned[world]): (world, seed) for world in tuned for seed in seeds}
    found: dict[tuple[str, int], Lived] = {}
    for job in as_completed(jobs):
        found[jobs[job]] = job.result()
        advance()
    return {world: _stacked([found[world, seed] for seed in seeds]) for world in tuned}


def tune(
    pool: Executor, worlds: Iterable[str], steps: int, advance: Callable[[], None]
) -> dict[str, dict[str, Values]]:
    """For each world and learner the values that earned most, exploration paid, on seeds that are not measured."""
    jobs = {pool.submit(_search, world, name, steps): (world, name) for world in worlds for name in GRIDS}
    best: dict[str, dict[str, Values]] = {world: {} for world in worlds}
    for job in as_completed(jobs):
        world, name = jobs[job]
        best[world][name] = job.result()
        advance()
    return {world: {name: best[world][name] for name in GRIDS} for world in best}


def _live(world: str, seed: int, steps: int, learners: Mapping[str, Values]) -> Lived:
    trial = SCENARIOS[world](seed, steps)
    runs = {name: run(name, trial, values) for name, values in learners.items()}
    taken = {name: lived.taken for name, lived in runs.items()}
    greedy = {name: lived.greedy for name, lived in runs.items()}
    return Lived(taken, greedy, trial.oracle, trial.known, trial.changes)


def _search(world: str, name: str, steps: int) -> Values:
    """One parameter after the other, the best value of each kept."""
    parameters = grid(world, name)
    best = {parameter: values[0] for parameter, values in parameters.items()}
    earned = _earned(world, name, best, steps)
    for parameter, values in parameters.items():
        for value in values[1:]:
            tried = {**best, parameter: value}
            if (result := _earned(world, name, tried, steps)) > earned:
                best, earned = tried, result
    return best


def _earned(world: str, name: str, values: Values, steps: int) -> float:
    return float(np.mean([run(name, SCENARIOS[world](seed, steps), values).taken.mean() for seed in TUNING_SEEDS]))


def _stacked(lives: list[Lived]) -> Lived:
    first = lives[0]
    taken = {name: np.stack([lived.taken[name] for lived in lives]) for name in first.taken}
    greedy = {name: np.stack([lived.greedy[name] for lived in lives]) for name in first.greedy}
    oracle, known = np.stack([lived.oracle for lived in lives]), np.stack([lived.known for lived in lives])
    return Lived(taken, greedy, oracle, known, first.changes)
