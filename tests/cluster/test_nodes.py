"""A Ray cluster of several nodes, started apart from the service: deployed to, tuned, and robbed of a node."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.cluster_utils import Cluster

from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from examples.miniwob.episodes import load_all
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.story import tell
from examples.miniwob.visit import Visit, checks
from services.serve_config import ServeCluster, serve_config
from tests.cluster.test_service import PATIENCE_S, eventually

SHOWN: list[dict[str, Any]] = [{"messages": episode.messages()} for episode in load_all()[::80]]


class Nodes:
    """A head without replicas and two workers, with a Redis of the service's own beside them."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        self.port = free_port()
        dashboard = free_port()
        arguments = {"include_dashboard": True, "dashboard_port": dashboard, "num_cpus": 0, "resources": {"head": 1}}
        self._ray = Cluster(initialize_head=True, head_node_args={**arguments, "object_store_memory": 100_000_000})
        self.workers = [self._ray.add_node(num_cpus=4, object_store_memory=100_000_000) for _ in range(2)]
        self.serve = ServeCluster(f"http://127.0.0.1:{dashboard}")
        self._groups: dict[str, dict[str, Any]] = {
            "server": {"port": self.port, "routers": 2},
            "model": {"replicas": 2, "threads": 1},
            "store": {"url": redis.url, "archive": directory / "archive"},
        }

    def deploy(self, **changes: dict[str, Any]) -> None:
        """Deploy, and wait until it runs."""
        self.serve.deploy(serve_config(Settings.model_validate({**self._groups, **changes})))
        eventually(lambda: self.serve.application().get("status") == "RUNNING")

    def replicas(self) -> dict[str, str]:
        """The node of every running replica."""
        deployments = self.serve.application()["deployments"].values()
        found = [replica for each in deployments for replica in each["replicas"] if replica["state"] == "RUNNING"]
        return {replica["replica_id"]: replica["node_id"] for replica in found}

    def kill(self, node_id: str) -> None:
        """The node of this id is gone from one moment to the next, with everything on it."""
        node = next(each for each in self.workers if each.node_id == node_id)
        self._ray.remove_node(node, allow_graceful=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, timeout=PATIENCE_S)

    def get(self, path: str) -> Any:
        response = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S)
        response.raise_for_status()
        return response.json()

    def stop(self) -> None:
        self._ray.shutdown()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    directory = tmp_path_factory.mktemp("nodes")
    with RedisServer(directory) as redis:
        started = Nodes(redis, directory)
        try:
            started.deploy()
            yield started
        finally:
            started.stop()


def test_it_is_healthy_on_both_workers(nodes: Nodes) -> None:
    application = nodes.serve.application()
    assert {name: each["status"] for name, each in application["deployments"].items()} == dict.fromkeys(
        ("Router", "Model", "Learner"), "HEALTHY"
    )
    assert set(nodes.replicas().values()) <= {worker.node_id for worker in nodes.workers}
    assert nodes.get("/readyz")["status"] == "ready"


def test_a_tunable_setting_changes_without_a_restart(nodes: Nodes) -> None:
    before = nodes.replicas()
    explained = SHOWN[0]
    first = nodes.post("/v1/route", explained).json()["arms"]
    assert any(arm["score"] > arm["mean"] for arm in first)
    nodes.deploy(router={"alpha": 0.0})

    def is_tuned() -> bool:
        """Of either Router: a few answers in a row without a bonus for a width."""
        seen = [arm for _ in range(6) for arm in nodes.post("/v1/route", explained).json()["arms"]]
        return all(arm["score"] <= arm["mean"] + 1e-9 for arm in seen)

    eventually(is_tuned)
    assert nodes.replicas() == before


def test_one_scrape_sees_every_router(nodes: Nodes) -> None:
    text = httpx.get(f"http://127.0.0.1:{nodes.port}/metrics", timeout=PATIENCE_S).text
    routers = {line.split('router="')[1].split('"')[0] for line in text.splitlines() if "policy_version{" in line}
    assert len(routers) == 2


def test_the_demos_client_is_served(nodes: Nodes) -> None:
    """As `pointsman demo --url` does, with fewer requests."""
    visit = Visit(f"http://127.0.0.1:{nodes.port}")
    figures, _ = visit.run(tell(load_all(), Outcomes.load(), 400, seed=0), 80, concurrency=8, delay=10)
    assert [check for check in checks(figures) if not check.ok] == []


def matured(nodes: Nodes) -> int:
    """Rewards that have been learned of all arms."""
    return sum(arm["matured"] for arm in nodes.get("/v1/bandit")["arms"])


def test_a_node_is_killed(nodes: Nodes) -> None:
    """Afterwards everything runs on the other one; what was acknowledged before is still known, and nothing twice."""
    ledger: dict[str, float] = {}
    stop = threading.Event()
    failed = 0
    eventually(lambda: nodes.get("/v1/bandit")["behind_events"] == 0)
    before = matured(nodes)

    def work() -> None:
        nonlocal failed
        for number in range(10_000):
            if stop.is_set():
                return
            try:
                answer = nodes.post("/v1/chat/completions", SHOWN[number % len(SHOWN)] | {"model": "auto"})
                if answer.status_code != 200:
                    failed += 1
                    continue
                id_ = answer.json()["routing"]["decision_id"]
                said = nodes.post("/v1/feedback", {"decision_id": id_, "reward": float(number % 2)})
                if said.status_code == 200 and said.json()["results"][0]["status"] == "recorded":
                    ledger[id_] = float(number % 2)
            except httpx.HTTPError:
                failed += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        eventually(lambda: len(ledger) >= 10)
        victim = next(iter(nodes.replicas().values()))
        nodes.kill(victim)
        survived = len(ledger)
        eventually(lambda: len(ledger) >= survived + 10 and victim not in nodes.replicas().values())
        eventually(lambda: nodes.serve.application().get("status") == "RUNNING")
    finally:
        stop.set()
        worker.join()
    eventually(lambda: nodes.get("/v1/bandit")["behind_events"] == 0)
    assert matured(nodes) == before + len(ledger)
    for id_, reward in list(ledger.items())[::5]:
        said = nodes.get(f"/v1/decisions/{id_}")["observations"].values()
        assert [each[0] for each in said] == [reward]
    assert nodes.get("/v1/bandit/verify")["ok"]
    assert failed < len(ledger)
