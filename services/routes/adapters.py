"""The adapters while the service runs: added, updated, removed, pinned; and where each of them lies."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from cluster.settings import Settings
from services.adapters.cache_view import CacheView
from services.adapters.registry import check_name
from services.adapters.shelf import Adapter
from services.catalogue.adapters import About, UnknownAdapter
from services.catalogue.lifecycle import Lifecycle, NameTaken
from services.edge.auth import needs
from services.edge.errors import ApiError
from services.insight.inspection import AdapterView
from services.routes.arms import check_like
from services.routing.router import Router
from services.schemas import Wire

Tag = Annotated[str, Field(min_length=1, max_length=64)]


class Changes(Wire):
    """What is said of an adapter. Without `source` it is read again where it was."""

    source: str | None = Field(None, min_length=1, max_length=1024, description="A directory, or owner/name@revision.")
    description: str | None = Field(None, max_length=1000)
    tags: list[Tag] | None = Field(None, max_length=32)
    coordinates: str | None = Field(None, min_length=1, max_length=64, description="Convention of its answers.")

    @property
    def about(self) -> About:
        """Without the source."""
        return About(self.description, self.tags, self.coordinates)


class NewAdapter(Changes):
    """A new adapter, whose arm may be expected to earn as those that it is `like`."""

    name: str
    source: str = Field(min_length=1, max_length=1024, description="A directory, or owner/name@revision.")
    like: list[str] = Field([], max_length=64, description="Arms of the trained router that it is expected to earn as.")


class Pin(Wire):
    """Whether an adapter stays on every device."""

    pinned: bool = True


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    lifecycle = Lifecycle(router.store, router.model, {router.base, *router.arms.registry.mixtures})
    inspects, operates = needs(settings, "inspect"), needs(settings, "admin", for_all=True)

    async def followed(adapter: Adapter) -> AdapterView:
        """Once this Router knows of the change; others do within `router.refresh_s`."""
        await router.decider.snapshots.refresh()
        return AdapterView.of(adapter, router.arms.lost.get(adapter.name))

    @app.get("/v1/adapters", tags=["adapters"], dependencies=[inspects])
    async def adapters() -> list[AdapterView]:
        """The adapters that there are."""
        return [AdapterView.of(adapter, router.arms.lost.get(adapter.name)) for adapter in router.arms.registry]

    @app.post("/v1/adapters", tags=["adapters"], dependencies=[operates], status_code=201)
    async def create(body: NewAdapter) -> AdapterView:
        """Add an adapter, which becomes an arm. Every replica reads and checks it first."""
        check_name(body.name)
        check_like(router, body.like)
        try:
            adapter = await lifecycle.add(body.name, body.source, body.about, body.like)
        except NameTaken as error:
            raise ApiError(409, f"name: {error}", param="name", code="name_taken") from None
        return await followed(adapter)

    @app.patch("/v1/adapters/{name}", tags=["adapters"], dependencies=[operates])
    async def update(name: str, body: Changes) -> AdapterView:
        """Serve an adapter as it is on disk now; other weights are a new version of its arms.

        Requests that run end with the version that they began with.
        """
        with _known(name):
            return await followed(await lifecycle.update(name, body.source, body.about))

    @app.delete("/v1/adapters/{name}", tags=["adapters"], dependencies=[operates])
    async def remove(name: str) -> AdapterView:
        """Serve no new request by an adapter. What its arms have learned stays, should it come again."""
        with _known(name):
            return await followed(await lifecycle.remove(name))

    @app.post("/v1/adapters/{name}/pin", tags=["adapters"], dependencies=[operates])
    async def pin(name: str, body: Pin) -> AdapterView:
        """Keep an adapter on every device; it leaves for a request alone that finds no other room, and comes again."""
        with _known(name):
            return await followed(await lifecycle.pin(name, body.pinned))

    @app.get("/v1/cache", tags=["adapters"], dependencies=[inspects])
    async def cache() -> list[CacheView]:
        """Every replica's adapters on the device and in host memory, and what has happened there.

        `problem` tells where its books do not agree with each other, which they always should. A replica that is gone
        is left out.
        """
        return await router.model.caches()


@contextlib.contextmanager
def _known(name: str) -> Iterator[None]:
    try:
        yield
    except UnknownAdapter:
        raise ApiError(404, f"name: {name!r} is unknown", param="name", code="not_found") from None
