"""The arms while the service runs: added, removed, frozen, renamed."""

import time
from typing import Annotated, Literal

from fastapi import Body, FastAPI
from pydantic import BaseModel, Field

from cluster.events import ArmFrozen, ArmRegistered, ArmRemoved, ArmRenamed
from cluster.roster import ArmEvent, ArmRecord, ArmRefused, UnknownArm
from cluster.settings import Settings
from services.adapters.registry import BASE, is_name
from services.edge.auth import needs
from services.edge.errors import ApiError
from services.routing.router import Router
from services.schemas import Wire

Verb = Literal["add", "remove", "freeze", "unfreeze", "rename"]


class Change(Wire):
    """What some verbs take: `serves` (the arm's own name by default) and `like` for add, `to` for rename."""

    serves: str | None = Field(None, description="What a new arm turns on: an adapter, or `base`.")
    like: list[str] = Field([], description="Arms of the trained router that a new one is expected to earn as.")
    to: str | None = Field(None, description="The arm's new name.")


class ArmChange(BaseModel):
    """An arm after a change, and whether there was anything to change."""

    arm: str
    changed: bool
    record: ArmRecord


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects, admins = needs(settings, "inspect"), needs(settings, "admin", for_all=True)

    @app.get("/v1/arms", tags=["arms"], dependencies=[inspects])
    async def arms() -> dict[str, ArmRecord]:
        """Every arm that there is or was, and its state."""
        return dict(sorted((await router.store.roster()).items()))

    @app.post("/v1/bandit/arms/{arm}/{verb}", tags=["arms"], dependencies=[admins])
    async def change(arm: str, verb: Verb, body: Annotated[Change | None, Body()] = None) -> ArmChange:
        """Change an arm; every Router follows. `freeze`: it keeps what it learned and is routed to no more."""
        event = _event(router, arm, verb, body or Change())
        try:
            changed = await router.store.change_arm(event)
        except UnknownArm:
            raise ApiError(404, f"arm: {arm!r} is unknown", param="arm", code="not_found") from None
        except ArmRefused as error:
            raise ApiError(409, f"{_field(verb)}: {error}", param=_field(verb), code="arm_refused") from None
        name = event.to if isinstance(event, ArmRenamed) else arm
        return ArmChange(arm=name, changed=changed, record=(await router.store.roster())[name])


def _event(router: Router, arm: str, verb: Verb, body: Change) -> ArmEvent:
    now, registry = time.time(), router.arms.registry
    if arm == BASE and verb in ("remove", "rename"):
        raise ApiError(
            409, f"arm: {BASE!r} cannot be {verb}d, expected an adapter's arm", param="arm", code="arm_refused"
        )
    match verb:
        case "add":
            serves = body.serves or arm
            if serves not in registry.arms:
                known = ", ".join(registry.arms[:20])
                message = f"serves: {serves!r} is unknown, expected one of {known}"
                raise ApiError(404, message, param="serves", code="not_found")
            if arm != serves:
                _check_name("arm", arm)
            fingerprint = registry[serves].fingerprint if serves in registry else None
            like = check_like(router, body.like)
            return ArmRegistered(time=now, arm=arm, serves=serves, adapter_hash=fingerprint, like=like)
        case "remove":
            return ArmRemoved(time=now, arm=arm)
        case "rename":
            return ArmRenamed(time=now, arm=arm, to=_check_name("to", body.to))
        case "freeze" | "unfreeze":
            return ArmFrozen(time=now, arm=arm, frozen=verb == "freeze")


def check_like(router: Router, like: list[str]) -> list[str]:
    """Arms that the trained router knows. Raises ApiError 404 for one that it does not."""
    trained = router.decider.contexts.statistics.arms
    for arm in like:
        if arm not in trained:
            message = f"like: {arm!r} is unknown to the trained router, expected some of {', '.join(trained[:20])}"
            raise ApiError(404, message, param="like", code="not_found")
    return like


def _check_name(field: str, name: str | None) -> str:
    if name is None or not is_name(name):
        expected = "expected letters, digits, '.', '_', '-' (at most 64) and no reserved name"
        raise ApiError(400, f"{field}: {name!r}, {expected}", param=field, code="invalid_value")
    return name


def _field(verb: Verb) -> str:
    return "to" if verb == "rename" else "arm"
