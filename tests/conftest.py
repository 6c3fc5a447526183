"""One real Redis a session, one key prefix a test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from cluster.redis_server import RedisServer

# The same examples on every run, however long a loaded machine takes for one.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir: Path = tmp_path_factory.mktemp("redis")
    with RedisServer(data_dir) as server:
        yield server.url


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid4().hex}:"
