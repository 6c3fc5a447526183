"""A cluster on this machine with two services over the same adapters, that differ in who chooses the replica."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import SecretStr

from benchmarks.engines.models import MODELS, write_adapters
from benchmarks.placing.anywhere import Anywhere
from cluster.redis_server import RedisServer, free_port
from cluster.settings import EMBEDDED_WORLD, Settings
from services.launch import running

REPLICAS: Final = 2
RANK: Final = 64


class Services(NamedTuple):
    """Base URLs: requests go where their adapters are, or where Serve sends them. `start_s`: what a start took."""

    placed: str
    anywhere: str
    start_s: float


@contextmanager
def services(folder: Path, adapters: int, room: int) -> Iterator[tuple[Services, list[str]]]:
    """Both services, until the block ends, and the adapters to ask for; a replica has room for `room` of them.

    What is not on a device is on disk: host memory is for fewer adapters than there are.
    """
    shelf = folder / "adapters"
    shutil.copytree(EMBEDDED_WORLD / "adapters", shelf)  # the trained router names them
    names = list(write_adapters(MODELS["embedded"].make(), RANK, adapters, shelf))
    with RedisServer(folder / "redis") as server:

        def settings(prefix: str) -> Settings:
            groups = {
                "server": {"port": port},
                "model": {"replicas": REPLICAS, "adapters": shelf, "threads": 1, "max_tokens": 64},
                "cache": {"device_rows": room * RANK, "host_bytes": 0},
                "store": {"url": SecretStr(server.url), "data_dir": folder, "prefix": prefix},
            }
            return Settings.model_validate(groups)

        port = free_port()
        with running(settings("placed:")) as url:
            from ray import serve  # once `running` has set its environment

            from services.app import build

            start = time.monotonic()
            serve.run(build(settings("anywhere:"), Anywhere), name="anywhere", route_prefix="/anywhere")
            yield Services(f"{url}/", f"{url}/anywhere/", time.monotonic() - start), names
