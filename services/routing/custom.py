"""Requests that bring their own gates: served and logged as they are, outside of what the router decides and learns."""

from collections.abc import Mapping

import numpy as np

from cluster.events import CUSTOM, EpisodeStep
from cluster.request_store import LastStep
from policies.base import Choice
from policies.episodes import Course
from services.catalogue.arms import Arms
from services.routing.episodes import OtherCoordinates

_NOTHING = np.zeros(1)
_COURSE = Course(1, CUSTOM, CUSTOM, "best", {"best": 1.0})

CHOICE = Choice(CUSTOM, 1.0, False, CUSTOM, (CUSTOM,), _NOTHING, _NOTHING, _NOTHING, _NOTHING, _COURSE)
"""No choice at all."""


def step(gates: Mapping[str, float], arms: Arms, last: LastStep | None) -> EpisodeStep:
    """Where an episode stands after such a request: its coin is as before, or will not be tossed.

    Raises OtherCoordinates for adapters that would mix the episode's convention with theirs.
    """
    convention = arms.convention(*gates)
    if last is None:
        return EpisodeStep(number=1, kept=CUSTOM, branch="best", masses={"best": 1.0}, coordinates=convention)
    if convention != last.step.coordinates:
        found = f"{', '.join(gates)} ({convention})"
        raise OtherCoordinates(f"the episode began with {last.step.coordinates!r} coordinates, {found} would mix them")
    return last.step.model_copy(update={"number": last.step.number + 1})
