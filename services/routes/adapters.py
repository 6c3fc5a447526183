"""The adapters, and new weights for one of them."""

from fastapi import FastAPI

from cluster.settings import Settings
from services.edge.auth import needs
from services.edge.errors import found
from services.insight import inspection
from services.router import Router


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects, operates = needs(settings, "inspect"), needs(settings, "admin")

    @app.get("/v1/adapters", tags=["adapters"], dependencies=[inspects])
    async def adapters() -> list[inspection.AdapterView]:
        """The adapters that can serve."""
        return [inspection.AdapterView.of(adapter) for adapter in router.arms.registry]

    @app.post("/v1/adapters/{name}/reload", tags=["adapters"], dependencies=[operates])
    async def reload(name: str) -> inspection.AdapterView:
        """Serve an adapter as it is on disk now, on every replica; other weights are a new version of its arm."""
        found(name if name in router.arms.registry else None, "name", name)
        return inspection.AdapterView.of(await router.reload(name))
