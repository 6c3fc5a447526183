"""One real Redis a session, one key prefix a test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cluster.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir: Path = tmp_path_factory.mktemp("redis")
    with RedisServer(data_dir) as server:
        yield server.url


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid4().hex}:"
