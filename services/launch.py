"""One machine: an embedded Redis if no other is named, Ray, and Serve, started and stopped together."""

import contextlib
import logging
import os
from collections.abc import Iterator

from cluster.redis_server import RedisServer
from cluster.settings import Settings


@contextlib.contextmanager
def running(settings: Settings, *, address: str | None = None) -> Iterator[str]:
    """Serve until the block ends; yields the base URL. `address` is an existing Ray cluster; none starts one here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # here, so that the environment above is seen
    from ray import serve

    from services.app import build

    with _store(settings) as url:
        settings = settings.model_copy(update={"store": settings.store.model_copy(update={"url": url})})
        application = build(settings)
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            serve.start(
                http_options={
                    "host": settings.server.host,
                    "port": settings.server.port,
                    "request_timeout_s": settings.server.request_timeout_s,
                }
            )
            serve.run(application, name="pointsman", route_prefix="/")
            yield f"http://{settings.server.host}:{settings.server.port}"
        finally:
            serve.shutdown()
            ray.shutdown()


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[str]:
    """The URL of the Redis that the settings name, or of one that lives as long as the block."""
    if url := settings.store.external_url:
        yield url
        return
    with RedisServer(settings.store.data_dir) as server:
        yield server.url
