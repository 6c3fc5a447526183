"""Who serves: the mode, and the guard's reset."""

import time

from fastapi import FastAPI
from pydantic import BaseModel

from cluster.events import GuardReset, Mode, ModeChanged
from cluster.settings import Settings
from services.edge.auth import Caller, needs
from services.insight import inspection
from services.routing.router import Router
from services.schemas import Wire


class ModeBody(Wire):
    """The mode to serve in from now on."""

    mode: Mode


class ModeView(BaseModel):
    """The mode that an operator chose (the setting `router.mode` before), and what is in force at this Router.

    They differ while Routers take a change over, and in a fallback. `policy` serves now.
    """

    chosen: Mode
    mode: str
    policy: str
    guard: inspection.GuardView | None


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects, operates = needs(settings, "inspect"), needs(settings, "admin")

    async def view() -> ModeView:
        chosen = await router.store.mode() or settings.router.mode
        return ModeView(
            chosen=chosen,
            mode=router.decider.modes.mode,
            policy=router.decider.policy.name,
            guard=inspection.guard(router.decider),
        )

    @app.get("/v1/mode", tags=["operations"], dependencies=[inspects])
    async def mode() -> ModeView:
        """Who serves, and what the guard has found."""
        return await view()

    @app.post("/v1/mode", tags=["operations"])
    async def set_mode(body: ModeBody, caller: Caller = operates) -> ModeView:
        """Serve online, in shadow or frozen. Every Router follows within `router.refresh_s`, this one at once."""
        await router.store.set_mode(ModeChanged(time=time.time(), mode=body.mode, by=caller.name))
        await router.decider.snapshots.follow_mode()
        return await view()

    @app.post("/v1/guard/reset", tags=["operations"])
    async def reset_guard(caller: Caller = operates) -> ModeView:
        """End the guard's alarm: it begins anew, and the chosen mode holds again once the Learner has folded this."""
        await router.store.reset_guard(GuardReset(time=time.time(), by=caller.name))
        return await view()
