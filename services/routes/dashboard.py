"""The page on which people watch the router, and what it shows."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from cluster.settings import Settings
from services.dashboard.live import Live
from services.edge.auth import Caller, needs
from services.edge.errors import found, invalid
from services.insight.timeline import BucketView, timeline
from services.learning.timeline import LENGTHS
from services.routing.router import Router
from services.routing.screens import MEDIA_TYPE

_STATIC = Path(str(files("services.dashboard").joinpath("static")))
Seconds = Annotated[int, Query(description=f"Length of a bucket: {', '.join(map(str, LENGTHS))}.")]


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects = needs(settings, "inspect")
    live = Live(router)
    app.mount("/dashboard", StaticFiles(directory=_STATIC))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/v1/timeline", tags=["inspection"])
    async def buckets(seconds: Seconds = 60, caller: Caller = inspects) -> list[BucketView]:
        """How requests went over time, in buckets of `seconds`, oldest first."""
        return await timeline(router, _known(seconds), caller.tenant)

    @app.get("/v1/live", tags=["inspection"], response_class=StreamingResponse)
    async def watch(seconds: Seconds = 60, caller: Caller = inspects) -> StreamingResponse:
        """What the dashboard shows, as server-sent events of what has changed, for some seconds: then ask again."""
        live.check_room()
        events = live.events(_known(seconds), caller.tenant)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @app.get("/v1/decisions/{decision_id}/screen", tags=["inspection"], response_class=Response)
    async def screen(decision_id: str, caller: Caller = inspects) -> Response:
        """The screen that a decision was taken on, made smaller; 204 where none is kept (`store.keep_screens`)."""
        known = await router.store.decision(decision_id)
        found(known if known and caller.sees(known.decision.tenant) else None, "decision_id", decision_id)
        image = await router.store.screen(decision_id)
        if image is None:
            return Response(status_code=204)
        return Response(image, media_type=MEDIA_TYPE, headers={"cache-control": "private, max-age=3600"})


def _known(seconds: int) -> int:
    if seconds not in LENGTHS:
        raise invalid("seconds", f"{seconds}, expected one of {', '.join(map(str, LENGTHS))}")
    return seconds
