"""Trained routers of a live service: pushed, activated, rolled back, listed."""

import asyncio
import base64
import binascii
import json
import time
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from cluster.events import RouterActivated
from cluster.router_store import NoEarlierRouter, RouterInUse, RouterRecord, UnknownRouter
from cluster.settings import Settings
from policies.context import ContextMap
from services.configuration import feature_spec, make_policy
from services.edge.auth import Caller, needs
from services.edge.errors import ApiError, found, invalid
from services.routing.router import Router
from services.schemas import Wire

State = Literal["active", "activating", "deciding", "earlier", "pushed"]


class RouterBody(Wire):
    """A trained router: its router.json, and its router.safetensors in base64."""

    document: dict[str, Any]
    tensors: str


class RouterView(BaseModel):
    """A router that the service has. While the `activating` one's contexts are folded, the `deciding` one goes on."""

    router: str
    state: State
    configured: bool
    time: float | None
    by: str | None
    arms: list[str]
    metrics: dict[str, float]


class RouterChange(BaseModel):
    """The active router after a change, and whether there was anything to change."""

    router: str
    changed: bool


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    admins = needs(settings, "admin")
    configured = router.routers.configured

    async def serving() -> str:
        return await router.store.active_router() or configured.fingerprint

    async def keep(contexts: ContextMap, by: str) -> None:
        document, tensors = contexts.files()
        record = RouterRecord(
            router=contexts.fingerprint,
            time=time.time(),
            by=by,
            arms=list(contexts.arms),
            metrics=dict(contexts.metrics),
            size=len(document) + len(tensors),
        )
        await router.store.put_router(record, document, tensors)

    @app.get("/v1/routers", tags=["routers"], dependencies=[admins])
    async def routers() -> list[RouterView]:
        """Every trained router that the service has, and which one decides."""
        records = await router.store.routers()
        if configured.fingerprint not in [record.router for record in records]:
            records.insert(0, _of_settings(configured))
        wanted, earlier = await serving(), await router.store.router_history()
        here = router.decider.contexts.fingerprint

        def state(name: str) -> State:
            if name == wanted:
                return "active" if name == here else "activating"
            if name == here:
                return "deciding"
            return "earlier" if name in earlier else "pushed"

        return [
            RouterView(
                router=record.router,
                state=state(record.router),
                configured=record.router == configured.fingerprint,
                time=record.time or None,
                by=record.by or None,
                arms=record.arms,
                metrics=record.metrics,
            )
            for record in records
        ]

    @app.post("/v1/routers", tags=["routers"])
    async def push(body: RouterBody, caller: Caller = admins) -> RouterChange:
        """Keep a trained router, so that it can be activated. It changes nothing yet."""
        contexts = _parsed(body)
        await asyncio.to_thread(_check, contexts, router, settings)
        there = contexts.fingerprint in [record.router for record in await router.store.routers()]
        await keep(contexts, caller.name)
        return RouterChange(router=contexts.fingerprint, changed=not there)

    @app.post("/v1/routers/{name}/activate", tags=["routers"])
    async def activate(name: str, caller: Caller = admins) -> RouterChange:
        """Decide with a router that was pushed, once the Learner has folded the log again in its contexts."""
        files = await router.store.router_files(name)
        if name != configured.fingerprint:
            pushed = ContextMap.parse(*found(files, "router", name), "the store")
            await asyncio.to_thread(_check, pushed, router, settings)
        await keep(configured, "settings")  # what a rollback leads to, whatever the settings say by then
        event = RouterActivated(time=time.time(), router=name, by=caller.name)
        try:
            changed = await router.store.activate_router(event, before=configured.fingerprint)
        except UnknownRouter:  # it was removed meanwhile
            raise ApiError(404, f"router: {name!r} is unknown", param="router", code="not_found") from None
        return RouterChange(router=name, changed=changed)

    @app.post("/v1/routers/rollback", tags=["routers"])
    async def roll_back(caller: Caller = admins) -> RouterChange:
        """Return to the router that was active before."""
        active, earlier = await serving(), await router.store.router_history()
        if not earlier:
            raise ApiError(409, f"router: nothing was active before {active}", param="router", code="no_earlier_router")
        event = RouterActivated(time=time.time(), router=earlier[0], by=caller.name)
        try:
            changed = await router.store.roll_back_router(event, active=active)
        except NoEarlierRouter as error:  # somebody else has changed it meanwhile
            raise ApiError(409, f"router: {error}", param="router", code="no_earlier_router") from None
        return RouterChange(router=earlier[0], changed=changed)

    @app.delete("/v1/routers/{name}", tags=["routers"], dependencies=[admins])
    async def remove(name: str) -> RouterChange:
        """Forget a router that was pushed. Not the active one, nor that before it, nor the one of the settings."""
        if name == configured.fingerprint:
            raise ApiError(409, f"router: {name} is the one of router.path", param="router", code="router_in_use")
        try:
            removed = await router.store.remove_router(name)
        except RouterInUse as error:
            raise ApiError(409, f"router: {error}", param="router", code="router_in_use") from None
        found(removed or None, "router", name)
        return RouterChange(router=name, changed=True)


def _of_settings(configured: ContextMap) -> RouterRecord:
    arms, metrics = list(configured.arms), dict(configured.metrics)
    return RouterRecord(router=configured.fingerprint, time=0.0, by="", arms=arms, metrics=metrics, size=0)


def _parsed(body: RouterBody) -> ContextMap:
    try:
        tensors = base64.b64decode(body.tensors, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("tensors", f"broken base64: {error}") from None
    try:
        return ContextMap.parse(json.dumps(body.document).encode(), tensors, "the request")
    except ValueError as error:
        raise invalid("document", str(error)) from None


def _check(contexts: ContextMap, router: Router, settings: Settings) -> None:
    """Refuse a router of other features, of adapters that are not there, or without what the policy needs."""
    size = router.decider.contexts.input_dimension
    if contexts.input_dimension != size:
        raise invalid(
            "document", f"input_dimension {contexts.input_dimension}, expected {size} as the model's features"
        )
    if wrong := feature_spec(settings).misfit(contexts.features):
        raise invalid("document", wrong)
    if unknown := sorted(set(contexts.arms) - set(router.arms.registry.arms)):
        raise ApiError(
            409, f"router: it routes to {', '.join(unknown)}, expected adapters that are there", code="unknown_adapter"
        )
    try:
        make_policy(settings, contexts)
    except ValueError as error:
        raise invalid("document", f"router.policy {settings.router.policy}: {error}") from None
