"""Steps of one episode, whichever Routers serve them: what the last one leaves open, and which arms may go on."""

from typing import cast

from cluster.events import EpisodeStep
from cluster.request_store import LastStep
from policies.episodes import Branch, Course
from services.adapters.registry import Registry


class OtherCoordinates(ValueError):
    """An episode would go on with an arm that means other coordinates by its answers."""


def eligible(arms: tuple[str, ...], last: LastStep | None, registry: Registry) -> tuple[str, ...]:
    """Those of `arms` that share the episode's coordinate convention; all of them at its start.

    Raises OtherCoordinates if none does.
    """
    if last is None:
        return arms
    fitting = tuple(arm for arm in arms if registry.coordinates(arm) == last.step.coordinates)
    if not fitting:
        found = ", ".join(f"{arm} ({registry.coordinates(arm)})" for arm in arms[:5])
        raise OtherCoordinates(f"the episode began with {last.step.coordinates!r} coordinates, {found} would mix them")
    return fitting


def course(last: LastStep | None) -> Course | None:
    """What a policy has to know of the steps so far."""
    if last is None:
        return None
    step = last.step
    masses = cast(dict[Branch, float], step.masses)
    return Course(step.number, last.arm, step.kept, cast(Branch, step.branch), masses)


def step(after: Course, registry: Registry, last: LastStep | None) -> EpisodeStep:
    """What is logged of the course after a decision."""
    return EpisodeStep(
        number=after.steps,
        kept=after.kept,
        branch=after.branch,
        masses=dict(after.masses),
        coordinates=last.step.coordinates if last else registry.coordinates(after.arm),
    )
