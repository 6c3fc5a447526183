"""The HTTP edge: one application over a Router. What happens is decided elsewhere."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

from cluster.settings import Settings
from services.edge.auth import key_first, unknown_arms
from services.edge.errors import ErrorBody, answer_errors
from services.edge.headers import SecurityHeaders
from services.edge.metrics import Metrics
from services.edge.middleware import BodyLimit, Measured
from services.edge.rates import Rates
from services.routes import (
    adapters,
    arms,
    dashboard,
    evaluation,
    feedback,
    forgetting,
    inference,
    inspection,
    modes,
    operations,
    routers,
)
from services.routing.router import Router

log = logging.getLogger(__name__)


def build_gateway(
    router: Router, settings: Settings, metrics: Metrics | None = None, exposition: operations.Exposition | None = None
) -> FastAPI:
    """The ASGI application over a Router, which lives as long as the application does.

    `exposition` is that of all Routers' metrics; without it this is the only one.
    """
    metrics = metrics or Metrics()

    async def alone() -> bytes:
        return await operations.exposition(router, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with router:
            if unknown := unknown_arms(settings.auth, router.arms.knows):
                log.warning(unknown)
            yield

    summary = "Routes computer-use requests to LoRA adapters and learns online."
    errors: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody, "description": "What was wrong"}}
    app = FastAPI(title="Pointsman", summary=summary, lifespan=lifespan, responses=errors)
    app.router.route_class = key_first(Rates(settings))
    app.add_middleware(BodyLimit, limit=settings.limits.body_bytes)
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    answer_errors(app)
    inference.add(app, router, settings, metrics)
    feedback.add(app, router, settings, metrics)
    arms.add(app, router, settings)
    inspection.add(app, router, settings)
    adapters.add(app, router, settings)
    modes.add(app, router, settings)
    routers.add(app, router, settings)
    evaluation.add(app, router, settings)
    forgetting.add(app, router, settings)
    dashboard.add(app, router, settings)
    operations.add(app, router, settings, exposition or alone)
    return app
