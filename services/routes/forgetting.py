"""Deletion on request: what is asked for, and what was done."""

import secrets
import time

from fastapi import FastAPI
from pydantic import BaseModel, Field, model_validator

from cluster.events import Forgotten
from cluster.forget_store import ForgetRequest
from cluster.settings import Settings
from services.edge.auth import Caller, needs
from services.edge.errors import ApiError, found
from services.routing.router import Router
from services.schemas import Identifier, Wire


class ForgetBody(Wire):
    """What to delete: a tenant's decisions, one decision, or what a key asked and said. Exactly one of them."""

    tenant: Identifier | None = None
    decision_id: Identifier | None = None
    key: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_target(self) -> "ForgetBody":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("expected exactly one of tenant, decision_id and key")
        return self


class ForgetView(BaseModel):
    """A request to forget; `done` once nothing of it is left in log and store, and the posterior is folded anew."""

    id: str
    request: ForgetRequest | None
    done: Forgotten | None


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    admins = needs(settings, "admin")

    async def views(caller: Caller) -> dict[str, ForgetView]:
        """The requests that the caller may know of."""
        waiting, done = await router.store.to_forget(), await router.store.forgotten()
        made = {id_: ForgetView(id=id_, request=one, done=None) for id_, one in waiting.items()}
        made |= {id_: ForgetView(id=id_, request=None, done=one) for id_, one in done.items()}
        return {id_: one for id_, one in made.items() if caller.tenant is None or _by(one) == caller.name}

    @app.post("/v1/forget", tags=["operations"], status_code=202)
    async def forget(body: ForgetBody, caller: Caller = admins) -> ForgetView:
        """Delete everything logged until now of a tenant, a decision or a key. The Learner does it; ask whether it has.

        The posterior is then folded anew from what is left: nothing that was learned from it remains.
        """
        await _check(router, body, caller)
        id_, request = secrets.token_hex(8), ForgetRequest(time=time.time(), by=caller.name, **body.model_dump())
        await router.store.ask_to_forget(id_, request)
        return ForgetView(id=id_, request=request, done=None)

    @app.get("/v1/forget", tags=["operations"])
    async def requests(caller: Caller = admins) -> list[ForgetView]:
        """Every request to forget, done or not."""
        return list((await views(caller)).values())

    @app.get("/v1/forget/{request_id}", tags=["operations"])
    async def request(request_id: str, caller: Caller = admins) -> ForgetView:
        """Whether a request is done."""
        return found((await views(caller)).get(request_id), "request_id", request_id)


def _by(view: ForgetView) -> str | None:
    said = view.request or view.done
    return said.by if said else None


async def _check(router: Router, body: ForgetBody, caller: Caller) -> None:
    """A tenant's key may have its own tenant's decisions deleted, and nothing else."""
    if caller.tenant is None:
        return
    if body.decision_id:
        known = await router.store.decision(body.decision_id)
        found(known if known and caller.sees(known.decision.tenant) else None, "decision_id", body.decision_id)
    elif body.tenant != caller.tenant:
        field = "tenant" if body.tenant else "key"
        message = f"{field}: the key {caller.name!r} is of tenant {caller.tenant!r}, expected that tenant"
        raise ApiError(403, message, param=field, code="other_tenant")
