"""Success and regret over time as PNG, a picture a world."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot

from benchmarks.regret.simulation import Lived
from policies.checks import Array

_WINDOW = 100


def draw(world: str, lived: Lived, folder: Path) -> Path:
    """Left, the greedy choice's success over the last hundred requests; right, the regret of what served."""
    mpl.use("agg")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), dpi=90, layout="constrained")
    left.plot(*_moving(lived.oracle), color="black", linestyle=":", label="oracle")
    for name, greedy in lived.greedy.items():
        style = "--" if name in ("mlp", "best single", "knn") else "-"
        left.plot(*_moving(greedy), style, label=name, linewidth=1.2)
        right.plot(np.cumsum((lived.oracle - lived.taken[name]).mean(axis=0)), style, linewidth=1.2)
    _label(left, "success of the greedy choice", lived.changes)
    _label(right, "regret of what served, in successes", lived.changes)
    figure.legend(loc="outside right center", fontsize=8)
    figure.suptitle(world)
    file = folder / f"{world.replace(' ', '_')}.png"
    figure.savefig(file)
    pyplot.close(figure)
    return file


def _moving(success: Array) -> tuple[Array, Array]:
    """Steps, and the mean over seeds and the steps before."""
    mean = np.convolve(success.mean(axis=0), np.full(_WINDOW, 1 / _WINDOW), mode="valid")
    return np.arange(_WINDOW, _WINDOW + len(mean), dtype=np.float64), mean


def _label(axes: pyplot.Axes, title: str, changes: Iterable[int]) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("requests", fontsize=8)
    axes.tick_params(labelsize=8)
    for change in changes:
        axes.axvline(change, color="gray", linewidth=0.6)
