"""The demo as a picture: success over time of every way of choosing, and which arm served."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot

from examples.miniwob.comparison import LAST, Course

_BLOCK: Final = 50
"""Requests of a column of the lower panel."""
_STYLES: Final = {
    "oracle": ("#7f7f7f", ":"),
    "routed": ("#1f5fbf", "-"),
    "supervised": ("#d1495b", "-"),
    "best_single": ("#8d6a9f", "--"),
    "base": ("#b8a04a", "--"),
}


def draw(
    courses: Mapping[str, Course], arms: Sequence[str], marks: Mapping[int, str], file: Path, order: Sequence[str]
) -> None:
    """Write a PNG: above the success of the last hundred requests, below the share of each of `order` in the pulls.

    `arms` are those that served, request by request; `marks` say what happened before a request.
    """
    mpl.use("agg")
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(9, 6.2), dpi=110, sharex=True, layout="constrained", height_ratios=(1.1, 1)
    )
    _success(above, courses)
    _pulls(below, arms, order)
    for request, text in marks.items():
        for axes in (above, below):
            axes.axvline(request, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
        above.annotate(
            text, (request, 1.03), xycoords=("data", "axes fraction"), fontsize=8, ha="center", annotation_clip=False
        )
    figure.savefig(file)
    pyplot.close(figure)


def _success(axes: Any, courses: Mapping[str, Course]) -> None:
    for name, (colour, line) in _STYLES.items():
        if name in courses:
            values = _recent(courses[name])
            label = name.replace("_", " ")
            axes.plot(np.arange(1, len(values) + 1), values, line, color=colour, label=label, linewidth=1.6)
    axes.set_ylabel(f"success of the last {LAST}", fontsize=9)
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", linewidth=0.3)
    axes.tick_params(labelsize=8)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _pulls(axes: Any, arms: Sequence[str], order: Sequence[str]) -> None:
    blocks = [Counter(arms[start : start + _BLOCK]) for start in range(0, len(arms), _BLOCK)]
    sizes = np.array([block.total() for block in blocks])
    starts = np.arange(len(blocks)) * _BLOCK
    colours = pyplot.get_cmap("tab20").colors
    below = np.zeros(len(blocks))
    for index, arm in enumerate(order):
        shares = np.array([block[arm] for block in blocks]) / sizes
        colour = colours[index % len(colours)]
        axes.bar(starts, shares, sizes, bottom=below, align="edge", color=colour, label=arm, linewidth=0)
        below += shares
    axes.set_ylabel(f"share of pulls, by {_BLOCK}", fontsize=9)
    axes.set_xlabel("requests", fontsize=9)
    axes.set_xlim(0, len(arms))
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=8)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _recent(course: Course) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean of the last hundred, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(course, dtype=np.float64)])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - LAST, 0)
    recent: np.ndarray[Any, np.dtype[np.float64]] = (sums[ends] - sums[starts]) / (ends - starts)
    return recent
