"""A whole service in one process: gateway, Router, Learner and store are real, the engine is scripted."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from safetensors.numpy import save_file

from cluster.events import Event
from cluster.settings import Settings
from cluster.store import Store
from policies.context import ContextMap
from policies.posterior import Posterior
from policies.prior import Prior
from services import assembly
from services.adapters.cache import AdapterCache
from services.caching.residency import ResidencyFollower
from services.catalogue.arms import Arms
from services.configuration import (
    feedback_rules,
    learning_config,
    make_cache,
    make_registry,
    make_shelf,
    make_store,
    watch_config,
)
from services.engine.base import Engine
from services.gateway import build_gateway
from services.learning.learner import Learner
from services.model.base import Model
from services.model.replica import ModelReplica
from services.routing.router import Router
from services.routing.snapshots import SnapshotFollower
from tests.services.fakes import FAMILIES, FakeEngine

PATIENCE_S = 120.0
BASE = "qwen"
Json = dict[str, Any]


class World:
    """The service of `settings`; the Learner folds when told to."""

    def __init__(self, settings: Settings, contexts: ContextMap, engine: FakeEngine) -> None:
        self.settings = settings
        self.contexts = contexts
        self.engine = engine
        self.registry = make_registry(settings)
        self.store = make_store(settings)
        self.cache = make_cache(settings, engine)
        self.residency = ResidencyFollower(self.store, self.cache, settings.router.refresh_s)
        self.router = make_router(settings, contexts, engine, self.cache)
        self.app = build_gateway(self.router, settings)
        self.learner = Learner(
            self.store, contexts, learning_config(settings), feedback_rules(settings), watching=watch_config(settings)
        )
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://pointsman")

    def serve_with(self, model: Model) -> None:
        """Let another model answer from now on."""
        self.router.model = self.router.dispatcher.model = model

    def leave_resident(self, *names: str) -> None:
        """Let all other adapters leave the device."""
        self.cache.follow([self.registry[name] for name in names])
        self.cache.follow(list(self.registry))

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, json=body, headers=named)

    async def get(self, path: str) -> Any:
        """The JSON of a GET that succeeds."""
        response = await self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def ask(self, text: str = "open the calendar", *, episode: str = "", **body: Any) -> Json:
        """The JSON of a chat that succeeds."""
        headers = {"x_episode_id": episode} if episode else {}
        response = await self.post("/v1/chat/completions", chat(text, **body), **headers)
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer

    async def say(self, *items: Json) -> list[str]:
        """The statuses of feedback items."""
        response = await self.post("/v1/feedback", list(items))
        assert response.status_code == 200, response.text
        return [result["status"] for result in response.json()["results"]]

    async def arm(self, name: str) -> Json:
        """What the bandit says of an arm when everything posted so far is folded and followed."""
        await self.fold()
        view: Json = await self.get(f"/v1/bandit/arms/{name}")
        return view

    async def fold(self) -> None:
        """Let the Learner fold what there is, and the Router take it over."""
        await self.settle()
        while await self.learner.step():
            pass
        await self.residency.step()
        version = (await self.store.learner_state()).version

        async def followed() -> bool:
            return self.router.decider.snapshots.version == version

        await eventually(followed)

    async def settle(self) -> None:
        """Wait for what the Router writes behind the requests."""
        await asyncio.gather(*self.router.background.running)

    async def events(self) -> list[Event]:
        """The whole stream."""
        await self.settle()
        return [event for _, event in await self.store.event_range()]

    async def kinds(self) -> list[str]:
        """The types of the requests' events, in order."""
        return [event.type for event in await self.events() if not event.type.startswith("arm_")]


def chat(text: str = "open the calendar", **body: Any) -> Json:
    """A chat request of one user message."""
    return {"model": "auto", "messages": [{"role": "user", "content": text}]} | body


def make_follower(settings: Settings, contexts: ContextMap, store: Store, arms: Arms | None = None) -> SnapshotFollower:
    return SnapshotFollower(
        store,
        Posterior(Prior(contexts.statistics, learning_config(settings))),
        arms or Arms(make_registry(settings)),
        discount=settings.learner.discount,
        refresh_s=settings.router.refresh_s,
        mode=settings.router.mode,
    )


def make_router(
    settings: Settings, contexts: ContextMap, engine: Engine, cache: AdapterCache[Any] | None = None
) -> Router:
    model = ModelReplica(engine, cache or make_cache(settings, engine), make_shelf(settings))
    return assembly.make_router(settings, model, contexts)


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """The world with its connections open, its arms registered and its adapters resident."""
    async with world.store, world.app.router.lifespan_context(world.app), world.http:
        async with world.cache.pin(world.registry):
            await world.learner.start(world.registry)
        world.cache._counts.page_in_ms.clear()  # a page-in costs what the settings assume, on every machine
        await world.fold()
        try:
            yield world
        finally:
            world.cache.check_integrity()
            world.cache.close()


@contextlib.asynccontextmanager
async def listening(app: FastAPI, port: int = 0) -> AsyncIterator[str]:
    """The application, started already, on a loopback port (0: a free one); yields its URL."""
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventually(started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended: on Python 3.11 the Redis client can swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


def write_adapter(directory: Path, name: str, *, weight: float = 1.0, **config: Any) -> Path:
    """A small PEFT LoRA; other weights make another content hash."""
    path = directory / name
    path.mkdir(parents=True, exist_ok=True)
    document = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]} | config
    (path / "adapter_config.json").write_text(json.dumps(document))
    tensors = {f"layer.lora_{part}.weight": np.full((2, 4), weight, np.float32) for part in "AB"}
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def write_adapters(directory: Path, names: tuple[str, ...] = FAMILIES) -> Path:
    for number, name in enumerate(names):
        write_adapter(directory, name, weight=10.0 + number)
    return directory
