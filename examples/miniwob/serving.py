"""The embedded world as a running service of the demo's own: its store, its log, and adapters that may be replaced."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.connection import Entry
from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from examples.miniwob.paths import ADAPTERS, MODEL, ROUTER, WORSE
from policies import create
from policies.context import ContextMap
from policies.posterior import Posterior
from policies.prior import Prior
from services.cli.client import Client
from services.configuration import feedback_rules, learning_config, make_store, policy_config
from services.insight.replay import Replay
from services.learning.folding import Folding

_FOLD_PATIENCE_S = 60.0
_SCREENS = 60
"""How many of the latest screens the dashboard shows."""


@dataclass(frozen=True)
class Service:
    """A running service, and the settings it was started with."""

    url: str
    settings: Settings

    def replace(self, adapter: str) -> str:
        """Put the adapter's worse version in its place, as a team does that ships a bad one; its content hash.

        Requests go on meanwhile. The service is told to read the files again and no more: it sees another hash, and
        `silent` settings keep what is believed of the arm.
        """
        shelf = self.settings.model.adapters
        shutil.copytree(WORSE / adapter, shelf / f".{adapter}")
        shutil.rmtree(shelf / adapter)
        (shelf / f".{adapter}").rename(shelf / adapter)
        with Client(self.url) as client:
            view: dict[str, Any] = client.patch(f"/v1/adapters/{adapter}", {})
        return str(view["fingerprint"])

    def settled(self, rewards: int) -> dict[str, Any]:
        """The bandit once that many rewards are folded; as it is when that takes too long."""
        deadline = time.monotonic() + _FOLD_PATIENCE_S
        with Client(self.url) as client:
            while True:
                state: dict[str, Any] = client.get("/v1/bandit")
                if sum(arm["matured"] for arm in state["arms"]) >= rewards or time.monotonic() > deadline:
                    return state
                time.sleep(0.2)

    def log(self) -> list[Entry]:
        """All events so far."""

        async def read() -> list[Entry]:
            async with make_store(self.settings) as store:
                return await store.event_range()

        return asyncio.run(read())

    def replayed(self) -> float:
        """Share of the decisions so far that the same policy takes again, offline, from the service's own log."""
        same = [again.same for again in self._replay()]
        return sum(same) / len(same) if same else 0.0

    def _replay(self) -> Replay:
        settings, contexts = self.settings, ContextMap.load(self.settings.router.path)
        learning = learning_config(settings)
        posterior = Posterior(Prior(contexts.statistics, learning))
        policy = create(settings.router.policy, posterior, policy_config(settings), contexts.supervision)
        fold = Folding(contexts, learning, feedback_rules(settings)).start({})
        return Replay(self.log(), contexts, fold, policy)


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    """Serve the embedded world until the block ends, on copies of its adapters and a Redis of its own."""
    from services.launch import running  # Ray takes seconds to import

    with tempfile.TemporaryDirectory(prefix="pointsman-demo-") as folder, RedisServer(folder) as redis:
        shelf = Path(shutil.copytree(ADAPTERS, Path(folder) / "adapters"))
        settings = silent(_settings(shelf, redis.url, Path(folder)))
        with running(settings) as url:
            yield Service(url, settings)


def silent(settings: Settings) -> Settings:
    """Settings under which other weights change nothing that is believed: only rewards can tell that they are worse."""
    return settings.model_copy(update={"learner": settings.learner.model_copy(update={"version_carry": 1.0})})


def _settings(adapters: Path, redis_url: str, folder: Path) -> Settings:
    """The embedded world on a free port; policy and learning as the environment and the file say."""
    return Settings.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": free_port()},
            "model": {"path": str(MODEL), "adapters": adapters},
            "router": {"path": ROUTER},
            "store": {"url": redis_url, "prefix": "pointsman-demo:", "data_dir": folder, "keep_screens": _SCREENS},
        }
    )
