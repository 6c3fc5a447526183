"""Settings in, Serve application out: the Router at the edge, the Model behind it, the Learner beside it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import RequestRouter

from cluster.settings import PLANNED, ModelSettings, Settings
from policies.caching.epochs import Planner
from policies.context import ContextMap
from services.arms import Arms
from services.background import Loops
from services.configuration import (
    base_names,
    epoch_config,
    feedback_rules,
    learning_config,
    make_cache,
    make_policy,
    make_registry,
    make_shelf,
    make_store,
    sealing_config,
    watch_config,
)
from services.deployment import logging_config
from services.directed import Directed
from services.edge.metrics import Metrics, merged
from services.engine.base import Engine
from services.engine.loading import load
from services.engine.routed import RoutedEngine
from services.gateway import build_gateway
from services.journal import Journal
from services.learner import Learner
from services.learning.planning import PlanMaker, Prices
from services.model import Model, ModelReplica, RemoteModel
from services.plan_follower import PlanFollower
from services.residency import ResidencyFollower
from services.router import Router
from services.routes import operations
from services.scaling import Scaling
from services.screens import Screens
from services.switching import Routers

_CPU = 0.01  # next to nothing, but a head that was started with --num-cpus=0 has less: no replica is placed there
_RETRY_AFTER_S = 1


EngineMaker = Callable[[Settings], Engine]


def routed_engine(settings: Settings) -> Engine:
    """The engine of a Model replica, its model loaded."""
    model = settings.model
    return RoutedEngine(
        load(model.path, dtype=model.dtype, device="cuda" if model.gpus else "cpu"),
        max_batch=model.max_batch,
        max_mixture=model.max_mixture,
        kv_tokens=model.kv_tokens,
        lora_pages=model.lora_pages,
        prefill_chunk=model.prefill_chunk,
        encode_blocks=model.encode_blocks,
        image_cache=model.image_cache,
        state_cache=model.state_cache,
        device_rows=settings.cache.device_rows,
        bases=base_names(settings),
    )


def build(
    settings: Settings, request_router: type[RequestRouter] = Directed, engine: EngineMaker = routed_engine
) -> serve.Application:
    """The application; `request_router` sends requests to Model replicas, each of which makes itself an `engine`.

    Raises what `check` raises.
    """
    check(settings)
    server, model, logs = settings.server, settings.model, logging_config(settings)
    models = serve.deployment(
        name="Model",
        **_size(model),
        logging_config=logs,
        max_ongoing_requests=server.max_ongoing,
        ray_actor_options={"num_cpus": _CPU, "num_gpus": model.gpus},
        request_router_config={"request_router_class": f"{request_router.__module__}.{request_router.__name__}"},
    )(ModelDeployment)
    learner = serve.deployment(
        name="Learner", num_replicas=1, logging_config=logs, ray_actor_options={"num_cpus": _CPU}
    )(LearnerDeployment)
    routers = serve.deployment(
        name="Router",
        num_replicas=server.routers,
        logging_config=logs,
        max_ongoing_requests=server.max_ongoing,
        max_queued_requests=server.max_queued,
        backpressure_config={"status_code": 503, "retry_after_s": _RETRY_AFTER_S},
        ray_actor_options={"num_cpus": _CPU},
    )(serve.ingress()(RouterDeployment))
    return routers.bind(settings, models.bind(settings, engine), learner.bind(settings))


def application(arguments: Settings) -> serve.Application:
    """The application of a Serve configuration file, whose `args` are settings by group.

    They stand above each node's environment and its `POINTSMAN_CONFIG`, as constructor arguments do.
    """
    return build(arguments)


def _size(model: ModelSettings) -> dict[str, Any]:
    """How many Model replicas there are: a number, or bounds between which load decides."""
    if not model.max_replicas:
        return {"num_replicas": model.replicas}
    policy = {
        "policy_function": f"{Scaling.__module__}:{Scaling.__name__}",
        "policy_kwargs": {"target": model.target_ongoing, "page_in_share": model.page_in_share},
    }
    scaling = {
        "min_replicas": model.replicas,
        "max_replicas": model.max_replicas,
        "target_ongoing_requests": model.target_ongoing,
        "upscale_delay_s": model.upscale_delay_s,
        "downscale_delay_s": model.downscale_delay_s,
        "policy": policy,
    }
    return {"autoscaling_config": scaling}


def check(settings: Settings) -> None:
    """Refuse what cannot be served, before anything is started.

    Raises ValueError for an address that others can reach while no keys are configured, for adapters that cannot be
    served, for a fixed arm that there is not, and for a router that cannot be read, that routes to unknown adapters, or
    that lacks what a policy needs that serves or is scored beside.
    """
    if not settings.server.is_loopback and not settings.auth.keys:
        raise ValueError(
            f"server.host is {settings.server.host!r}, which others can reach, and auth.keys is empty: "
            "expected at least one key, or a loopback address (`pointsman key` makes one)"
        )
    registry = make_registry(settings)
    if settings.router.policy == "fixed" and settings.router.fixed_arm not in registry.arms:
        expected = ", ".join(registry.arms)
        raise ValueError(f"router.fixed_arm: {settings.router.fixed_arm!r} is unknown, expected one of {expected}")
    if not (settings.router.path / "router.json").is_file():
        raise ValueError(f"router.path: {settings.router.path} has no router.json, expected a trained router")
    contexts = ContextMap.load(settings.router.path)
    if unknown := set(contexts.arms) - set(registry.arms):
        names = ", ".join(sorted(unknown))
        raise ValueError(f"router.path: {settings.router.path} routes to {names}, expected adapters of model.adapters")
    router = settings.router
    for field, name in [("policy", router.policy), *(("shadow_policies", beside) for beside in router.shadow_policies)]:
        try:
            make_policy(settings, contexts, name)
        except ValueError as error:
            raise ValueError(f"router.{field}: {error}, found {router.path}") from error


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
        learner = Learner(
            make_store(settings),
            ContextMap.load(settings.router.path),
            learning_config(settings),
            feedback_rules(settings),
            batch=settings.learner.batch,
            pace_ms=settings.learner.pace_ms,
            watching=watch_config(settings),
            sealing=sealing_config(settings),
        )
        self._running = Loops()
        self._running.start(learner.run(make_registry(settings)))
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
        self._router = build_router(settings, RemoteModel(model))
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


def make_plans(settings: Settings) -> PlanMaker:
    """Who plans what the replicas keep, not yet connected."""
    arms, store = Arms(make_registry(settings)), make_store(settings)
    routers = Routers(settings, store, arms, ContextMap.load(settings.router.path))
    prices = Prices(settings.router.cost_per_ms, settings.router.page_in_ms)
    epochs = epoch_config(settings)
    return PlanMaker(store, arms, routers, lambda: Planner(epochs), prices, pace_s=settings.cache.plan_s)


def build_router(settings: Settings, model: Model) -> Router:
    """A Router, not yet connected."""
    arms, store = Arms(make_registry(settings)), make_store(settings)
    routers = Routers(settings, store, arms, ContextMap.load(settings.router.path))
    return Router(
        settings.router,
        base=settings.model.public_name,
        model=model,
        store=store,
        arms=arms,
        routers=routers,
        screens=Screens(store, settings.store.keep_screens),
        journal=Journal(store, bound=settings.store.journal, patience_s=settings.store.patience_s),
    )
