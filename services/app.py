"""Settings in, Serve application out: the Router at the edge, the Model behind it, the Learner beside it."""

from typing import Any

from ray import serve
from ray.serve.request_router import RequestRouter

from cluster.settings import ModelSettings, Settings
from policies.context import ContextMap
from services.configuration import feature_spec, make_policy, make_registry
from services.deployments import EngineMaker, LearnerDeployment, ModelDeployment, RouterDeployment, routed_engine
from services.model.directed import Directed
from services.model.scaling import Scaling
from services.serve_config import logging_config

_CPU = 0.01  # next to nothing, but a head that was started with --num-cpus=0 has less: no replica is placed there
_RETRY_AFTER_S = 1


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
    served, for a fixed arm that there is not, and for a router that cannot be read, that was trained on other features,
    that routes to unknown adapters, or that lacks what a policy needs that serves or is scored beside.
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
    try:
        contexts = ContextMap.load(settings.router.path)
    except ValueError as error:
        raise ValueError(f"router.path: {error}") from error
    if wrong := feature_spec(settings).misfit(contexts.features):
        raise ValueError(f"router.path: {settings.router.path} has {wrong}")
    if unknown := set(contexts.arms) - set(registry.arms):
        names = ", ".join(sorted(unknown))
        raise ValueError(f"router.path: {settings.router.path} routes to {names}, expected adapters of model.adapters")
    router = settings.router
    for field, name in [("policy", router.policy), *(("shadow_policies", beside) for beside in router.shadow_policies)]:
        try:
            make_policy(settings, contexts, name)
        except ValueError as error:
            raise ValueError(f"router.{field}: {error}, found {router.path}") from error
