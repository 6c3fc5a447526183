"""One machine: an embedded Redis if no other is named, Ray, and Serve, started and stopped together."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import SecretStr

from cluster.redis_server import RedisServer
from cluster.settings import Settings

if TYPE_CHECKING:
    from services.deployments import EngineMaker


@contextlib.contextmanager
def running(settings: Settings, *, address: str | None = None, engine: "EngineMaker | None" = None) -> Iterator[str]:
    """Serve until the block ends; yields the base URL. `address` is a Ray cluster to join; without it one starts here.

    `engine` makes every Model replica another engine than the model's own.

    Raises ValueError for settings that cannot be served, RuntimeError when the port is taken or Redis does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Serve's own 5 s are too few for a proxy that starts on a busy machine: it would be killed again and again.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    import ray  # here, so that the environment above is seen
    from ray import serve

    from services.app import build, check
    from services.deployments import routed_engine
    from services.serve_config import APPLICATION, http_options, logging_config, tracing_config

    check(settings)
    if address and not settings.store.external_url:
        raise ValueError("store.url is empty, expected a Redis that every node of the cluster reaches")
    _refuse_taken_port(settings)
    with _store(settings) as url:
        application = build(
            settings.model_copy(update={"store": settings.store.model_copy(update={"url": SecretStr(url)})}),
            engine=engine or routed_engine,
        )
        ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            serve.start(
                http_options=http_options(settings),
                logging_config=logging_config(settings),
                tracing_config=tracing_config(settings),
            )
            serve.run(application, name=APPLICATION, route_prefix="/")
            host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
            yield f"http://{host}:{settings.server.port}"
        finally:
            with contextlib.suppress(Exception):  # what is gone already needs no ending
                serve.delete(APPLICATION)
            ray.shutdown()


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[str]:
    """The URL of the Redis that the settings name, or of one that lives as long as the block."""
    if url := settings.store.external_url:
        yield url
        return
    with RedisServer(settings.store.data_dir) as server:
        yield server.url


def _refuse_taken_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.server.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.server.host, settings.server.port))
        except OSError as error:
            where = f"{settings.server.host}:{settings.server.port}"
            raise RuntimeError(f"server.port: cannot listen on {where}: {error.strerror}") from None
