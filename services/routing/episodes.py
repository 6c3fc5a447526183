"""Steps of one episode, whichever Routers serve them: what the last one leaves open, and which arms may go on."""

from collections.abc import Callable
from typing import cast

from cluster.events import EpisodeStep
from cluster.request_store import LastStep
from policies.episodes import Branch, Course
from services.catalogue.arms import Arms


class NoArm(ValueError):
    """No arm may serve a request; the message says why."""


class OtherCoordinates(ValueError):
    """An episode would go on with an arm that means other coordinates by its answers."""


def eligible(asked: tuple[str, ...], last: LastStep | None, arms: Arms) -> tuple[str, ...]:
    """Those of the arms `asked` for that are there still and share the episode's coordinate convention, if it has one.

    Raises NoArm if none is there, OtherCoordinates if none fits.
    """
    there = tuple(arm for arm in dict.fromkeys(map(arms.current, asked)) if arm in arms)
    if not there:
        named = ", ".join(asked[:5]) or "every arm"
        raise NoArm(f"{named} is frozen or removed, expected an arm that can serve")
    if last is None:
        return there
    fitting = tuple(arm for arm in there if arms.coordinates(arm) in (None, last.step.coordinates))
    if not fitting:
        found = ", ".join(f"{arm} ({arms.coordinates(arm)})" for arm in there[:5])
        raise OtherCoordinates(f"the episode began with {last.step.coordinates!r} coordinates, {found} would mix them")
    return fitting


def course(last: LastStep | None, current: Callable[[str], str]) -> Course | None:
    """What a policy has to know of the steps so far; `current` tells what an arm is called now."""
    if last is None:
        return None
    step = last.step
    masses = cast(dict[Branch, float], step.masses)
    return Course(step.number, current(last.arm), current(step.kept), cast(Branch, step.branch), masses)


def step(after: Course, coordinates: str, last: LastStep | None) -> EpisodeStep:
    """What is logged of the course after a decision whose answer has these coordinates."""
    return EpisodeStep(
        number=after.steps,
        kept=after.kept,
        branch=after.branch,
        masses=dict(after.masses),
        coordinates=last.step.coordinates if last else coordinates,
    )
