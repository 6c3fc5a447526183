"""Time to the first token through HTTP: routed by `auto`, and pinned to the arm that `auto` has just chosen.

The service is whole and in one process, so that no hop hides what routing costs: FastAPI on a socket, Router, Learner,
Redis that syncs every write, and the engine. Every request has a screen that nobody has seen, so nothing is remembered.
"""

import asyncio
import base64
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket
from statistics import median
from typing import Any, NamedTuple

import httpx
import numpy as np
import torch
import uvicorn
from rich.progress import Progress

from benchmarks.engines.models import Subject, write_adapters
from benchmarks.engines.workload import Request, requests
from cluster.redis_server import RedisServer
from cluster.settings import Settings
from cluster.store import Store
from policies.training.artifact import fit_context_map
from policies.training.classifier import ClassifierConfig
from policies.training.network import RouterMLP
from services.adapters.cache import AdapterCache
from services.adapters.registry import Registry
from services.assembly import make_router
from services.configuration import (
    feedback_rules,
    learning_config,
    make_cache,
    make_registry,
    make_shelf,
    make_store,
    watch_config,
)
from services.engine.base import Sampling
from services.engine.routed import RoutedEngine
from services.gateway import build_gateway
from services.learning.learner import Learner
from services.model.replica import ModelReplica

_ADAPTERS, _UNMEASURED = 8, 4


class FirstTokens(NamedTuple):
    """Seconds to the first token: pairs of routed and pinned requests under the same arm, and the engine alone."""

    auto: list[float]
    pinned: list[float]
    engine: list[float]

    @property
    def ratio(self) -> float:
        """The median over pairs of routed ÷ pinned."""
        return median(a / b for a, b in zip(self.auto, self.pinned, strict=True))


def first_tokens(subject: Subject, name: str, progress: Progress, *, quick: bool) -> FirstTokens:
    """Measure pairs, one request after the other, in alternating order."""
    pairs = 12 if quick else 60
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engine, settings = _prepared(subject, Path(folder), stack)
        http = stack.enter_context(httpx.Client(base_url=stack.enter_context(_serving(engine, settings)), timeout=600))
        asked = iter(requests(3 * (pairs + _UNMEASURED), 1, 1, ["auto"]))
        found, arm = FirstTokens([], [], []), "base"
        for number in progress.track(range(pairs + _UNMEASURED), description=f"{name}, first tokens"):
            if number % 2:
                pinned, _ = _ask(http, next(asked), arm)
            auto, arm = _ask(http, next(asked), "auto")
            if not number % 2:
                pinned, _ = _ask(http, next(asked), arm)
            alone = asyncio.run(_engine_alone(engine, next(asked), {} if arm == "base" else {arm: 1.0}))
            if number >= _UNMEASURED:
                for seconds, measured in zip(found, (auto, pinned, alone), strict=True):
                    seconds.append(measured)
    return found


def _prepared(subject: Subject, folder: Path, stack: ExitStack) -> tuple[RoutedEngine, Settings]:
    """The engine, and settings of a service over it whose router was made for its features."""
    checkpoint = subject.make()
    paths = write_adapters(checkpoint, subject.rank, _ADAPTERS, folder / "adapters")
    engine = RoutedEngine(checkpoint, paths, kv_tokens=8192, device_rows=_ADAPTERS * max(subject.rank, 8))
    stack.callback(engine.close)
    _write_router(engine.feature_size, list(paths), folder / "router")
    redis = stack.enter_context(RedisServer(folder / "redis"))
    groups: dict[str, Any] = {
        "model": {"adapters": folder / "adapters", "name": "qwen"},
        "router": {"path": folder / "router", "mixtures": ()},
        "store": {"url": redis.url, "data_dir": folder},
    }
    return engine, Settings.model_validate(groups)


def _write_router(size: int, arms: list[str], path: Path) -> None:
    """A router of the usual size that knows nothing: what it decides takes as long as what a good one does."""
    torch.manual_seed(0)
    H = np.random.default_rng(0).normal(size=(32 * len(arms), size))
    labels = [arms[number % len(arms)] for number in range(len(H))]
    config = ClassifierConfig()
    fit_context_map(RouterMLP(size, hidden=config.hidden, arms=tuple(arms)), H, labels, config).save(path)


class _Server(uvicorn.Server):
    """Says where it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.url: Future[str] = Future()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self.url.set_result(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}")


@contextmanager
def _serving(engine: RoutedEngine, settings: Settings) -> Iterator[str]:
    """The URL of the service, on an event loop and a thread of its own."""
    registry, cache = make_registry(settings), make_cache(settings, engine)
    router = make_router(settings, ModelReplica(engine, cache, make_shelf(settings)))
    server = _Server(uvicorn.Config(build_gateway(router, settings), port=0, log_level="error"))
    store = make_store(settings)
    learner = Learner(
        store,
        router.decider.contexts,
        learning_config(settings),
        feedback_rules(settings),
        watching=watch_config(settings),
    )
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, learner, store, registry, cache)))
    thread.start()
    try:
        yield server.url.result(timeout=60)
    finally:
        server.should_exit = True
        thread.join()


async def _serve(server: _Server, learner: Learner, store: Store, registry: Registry, cache: AdapterCache[Any]) -> None:
    async with store:
        async with cache.pin(registry):
            pass  # what is measured is not their way to the device
        learning = asyncio.create_task(learner.run(registry))
        await server.serve()
        learning.cancel()
        await asyncio.wait([learning])
    cache.close()


def _ask(http: httpx.Client, request: Request, model: str) -> tuple[float, str]:
    """Seconds until the first token, and the arm that served; only one token is asked for."""
    url = f"data:image/png;base64,{base64.b64encode(request.prompt.images[0]).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": request.text}]
    body = {
        "model": "qwen" if model == "base" else model,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "max_tokens": 1,
    }
    start, first, arm = time.perf_counter(), 0.0, ""
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        arm = response.headers["x-pointsman-arm"]
        for line in response.iter_lines():
            if not first and line.startswith("data: {") and _says_something(json.loads(line[6:])):
                first = time.perf_counter() - start
    if not first:
        raise RuntimeError("an answer without a token")
    return first, arm


def _says_something(chunk: dict[str, Any]) -> bool:
    choice = chunk["choices"][0]
    return bool(choice["delta"].get("content") or choice["finish_reason"])


async def _engine_alone(engine: RoutedEngine, request: Request, gates: dict[str, float]) -> float:
    start = time.perf_counter()
    async for _ in engine.generate(request.prompt, gates, Sampling(1)):
        return time.perf_counter() - start
    raise RuntimeError("an answer without a token")
