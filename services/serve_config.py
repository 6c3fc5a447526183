"""From settings to a Serve configuration, and from there onto a Ray cluster that runs already."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.settings import TUNABLE, Settings

APPLICATION = "pointsman"
_POLL_S = 1.0


def http_options(settings: Settings) -> dict[str, Any]:
    """Where Serve's proxies listen, and how long a request may take."""
    server = settings.server
    return {"host": server.host, "port": server.port, "request_timeout_s": server.request_timeout_s}


def logging_config(settings: Settings) -> dict[str, Any]:
    """How Serve and what runs on it log."""
    return {"encoding": "JSON" if settings.telemetry.log_format == "json" else "TEXT"}


def tracing_config(settings: Settings) -> dict[str, Any]:
    """Which requests are traced, and where their spans go."""
    telemetry = settings.telemetry
    exporter = {"off": "", "file": "", "otlp": "services.tracing:otlp"}[telemetry.traces]
    return {
        "enabled": telemetry.traces != "off",
        "exporter_import_path": exporter,
        "sampling_ratio": telemetry.trace_share,
    }


def serve_config(settings: Settings, *, redis_from_nodes: bool = False) -> dict[str, Any]:
    """The Serve configuration of these settings, as `PUT /api/serve/applications/` takes it.

    What is tunable stands in the Router's `user_config`: a change of nothing else restarts nothing. With
    `redis_from_nodes` every node's own `REDIS_URL` holds. Raises ValueError without a Redis, and for a password in its
    URL, which the configuration would show.
    """
    deployments = [{"name": "Router", "user_config": _given(settings, tunable=True)}]
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": "services.app:application",
        "args": _with_store(settings, _given(settings, tunable=False), redis_from_nodes=redis_from_nodes),
        "deployments": deployments,
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": http_options(settings),
        "logging_config": logging_config(settings),
        "tracing_config": tracing_config(settings),
        "applications": [application],
    }


class ServeCluster:
    """A running Ray cluster, by the address of its dashboard, such as http://127.0.0.1:8265."""

    def __init__(self, address: str) -> None:
        """Raises ConnectionError for an address that does not answer, ValueError for one that is not a dashboard's."""
        self._client = ServeSubmissionClient(address)

    def deploy(self, config: Mapping[str, Any]) -> list[str]:
        """Ask for the configuration; the names of other applications, which stay as they are."""
        running = self._client.get_serve_details().get("applications", {}).values()
        others = [each for each in running if each["name"] != APPLICATION]
        if ended := [each["name"] for each in others if not each.get("deployed_app_config")]:
            names = ", ".join(ended)
            raise ValueError(f"{names}: deployed from code, which a configuration would end; expected none but by one")
        kept = [each["deployed_app_config"] for each in others]
        self._client.deploy_applications({**config, "applications": [*config["applications"], *kept]})
        return [each["name"] for each in others]

    def progress(self) -> Iterator[dict[str, Any]]:
        """The application's details, again and again, until it runs. Raises RuntimeError when it cannot be deployed."""
        while True:
            application = self.application()
            yield application
            if application.get("status") == "RUNNING":
                return
            if application.get("status") == "DEPLOY_FAILED":
                raise RuntimeError(f"the application was not deployed: {application.get('message')}")
            time.sleep(_POLL_S)

    def application(self) -> dict[str, Any]:
        """The application's details; empty before the cluster knows it."""
        known = self._client.get_serve_details().get("applications", {})
        return cast(dict[str, Any], known.get(APPLICATION, {}))


def _given(settings: Settings, *, tunable: bool) -> dict[str, dict[str, Any]]:
    """What differs from the defaults, by group: the tunable settings, or all others."""
    groups = settings.model_dump(mode="json", exclude_defaults=True)
    kept = {
        group: {name: value for name, value in values.items() if (name in TUNABLE.get(group, ())) == tunable}
        for group, values in groups.items()
    }
    return {group: values for group, values in kept.items() if values}


def _with_store(
    settings: Settings, arguments: dict[str, dict[str, Any]], *, redis_from_nodes: bool
) -> dict[str, dict[str, Any]]:
    """The Redis of the settings, in words that a cluster's nodes can read."""
    store = {name: value for name, value in arguments.get("store", {}).items() if name != "url"}
    if not redis_from_nodes:
        store["url"] = _shown(settings.store.external_url)
    others = {group: values for group, values in arguments.items() if group != "store"}
    return others | ({"store": store} if store else {})


def _shown(url: str | None) -> str:
    expected = (
        "expected a Redis that every node reaches, or --redis-from-nodes and REDIS_URL in every node's environment"
    )
    if not url:
        raise ValueError(f"store.url is empty, {expected}")
    if urlsplit(url).password:
        raise ValueError(f"store.url holds a password, which whoever sees the Ray dashboard would see, {expected}")
    return url
