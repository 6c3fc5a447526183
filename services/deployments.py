"""The three Serve deployments: Model, Learner and Router, each made of settings on the node where it runs."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.settings import PLANNED, Settings
from policies.context import ContextMap
from services.assembly import make_learner, make_plans, make_router
from services.background import Loops
from services.caching.plan_follower import PlanFollower
from services.caching.residency import ResidencyFollower
from services.configuration import base_names, make_cache, make_registry, make_shelf, make_store
from services.edge.metrics import Metrics, merged
from services.engine.base import Engine
from services.engines import make_engine
from services.gateway import build_gateway
from services.model.remote import RemoteModel
from services.model.replica import ModelReplica
from services.routes import operations

EngineMaker = Callable[[Settings], Engine]


def routed_engine(settings: Settings) -> Engine:
    """The engine of a Model replica."""
    return make_engine(settings, device_rows=settings.cache.device_rows, bases=base_names(settings))


class ModelDeployment(ModelReplica):
    """One copy of the weights."""

    def __init__(self, settings: Settings, make_engine: EngineMaker) -> None:
        log_with_serve()
        model = settings.model
        if model.threads:
            torch.set_num_threads(model.threads)
        engine = make_engine(settings)
        expected = ContextMap.load(settings.router.path).input_dimension
        if engine.feature_size != expected:
            found = f"{model.path} has {engine.feature_size}"
            raise ValueError(f"router.path: {settings.router.path} was trained on {expected} features, {found}")
        shelf, cache = make_shelf(settings), make_cache(settings, engine)
        for adapter in make_registry(settings):
            engine.device.check(shelf.inspect(adapter))
        replica = serve.get_replica_context().replica_id.unique_id
        super().__init__(engine, cache, shelf, replica, model.max_batch)
        residency = ResidencyFollower(make_store(settings), cache, settings.router.refresh_s)
        plans = PlanFollower(make_store(settings), cache, replica, settings.cache.plan_s)
        self._following = Loops()
        self._following.start(residency.run(), plans.run())

    def check_health(self) -> None:
        """Serve replaces a replica whose engine has stopped, or that no longer follows what shall be resident."""
        super().check_health()
        self._following.check()


class LearnerDeployment:
    """The one writer of the posterior."""

    def __init__(self, settings: Settings) -> None:
        log_with_serve()
        self._running = Loops()
        self._running.start(make_learner(settings).run(make_registry(settings)))
        if settings.cache.policy in PLANNED:
            self._running.start(make_plans(settings).run())

    def check_health(self) -> None:
        """Serve replaces a Learner that has ended, or whose plans have."""
        self._running.check()


class RouterDeployment:
    """The ingress: the gateway over a Router."""

    def __init__(
        self,
        settings: Settings,
        model: "DeploymentHandle[ModelReplica]",
        learner: "DeploymentHandle[Any]",
    ) -> None:
        log_with_serve()
        self._settings = settings
        self._learner = learner  # keeps the Learner in the application; the hot path never calls it
        self._router = make_router(settings, RemoteModel(model))
        self._metrics = Metrics()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_gateway(self._router, self._settings, self._metrics, self._exposition)

    async def metrics(self) -> tuple[str, bytes]:
        """This replica, and its Prometheus metrics."""
        text = await operations.exposition(self._router, self._metrics)
        return serve.get_replica_context().replica_id.unique_id, text

    async def _exposition(self) -> bytes:
        handle = serve.get_deployment_handle("Router", serve.get_replica_context().app_name)
        return merged(dict(await handle.broadcast("metrics").results_async()))

    def reconfigure(self, user_config: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on with other values of tunable settings; what `user_config` does not name is as it was deployed."""
        self._router.tune(self._settings.tuned(user_config))

    def check_health(self) -> None:
        """Serve replaces a Router that no longer follows the Learner."""
        self._router.check()


def log_with_serve() -> None:
    """Let our lines go where Serve's own go, in their form, with their request ids."""
    serves = logging.getLogger("ray.serve")
    for name in ("services", "cluster"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = serves.handlers, False
        ours.setLevel(serves.level)
