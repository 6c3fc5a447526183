"""The edge on a live cluster, before an engine that answers at once: what it keeps, and how it grows."""

import base64
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from benchmarks.edge import instant
from benchmarks.edge.processes import replicas
from benchmarks.edge.soak import own_mib
from cluster.redis_server import free_port
from cluster.settings import Settings
from services.launch import running
from tests.cluster.test_service import PATIENCE_S, eventually
from tests.services.images import encoded

CLIENTS = 8
MIB = 1 << 20


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that starts a cluster of its own, although Ray is told of another one, which is gone."""
    scaled = {"replicas": 1, "max_replicas": 2, "target_ongoing": 2, "upscale_delay_s": 0}
    store = {"data_dir": tmp_path_factory.mktemp("edge")}
    groups = {"server": {"port": free_port()}, "store": store, "model": scaled}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        with running(Settings.model_validate(groups), engine=instant.engine) as url:
            yield url


def ask(url: str, content: Any) -> Any:
    body = {"model": "auto", "messages": [{"role": "user", "content": content}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_no_request_is_kept_when_it_is_answered(url: str) -> None:
    """Sixty screens of 2 MiB each leave the Router as large as it was, but for a few of them."""
    screen = encoded(8, 8) + os.urandom(2 * MIB)  # what follows a PNG's end is nobody's
    shown = f"data:image/png;base64,{base64.b64encode(screen).decode()}"
    content = [{"type": "image_url", "image_url": {"url": shown}}, {"type": "text", "text": "Click."}]
    (router,) = replicas("Router")
    for _ in range(10):
        ask(url, content)
    before = own_mib(router)
    for _ in range(60):
        ask(url, content)
    assert own_mib(router) < before + 40


@contextmanager
def asking(url: str) -> Iterator[set[str]]:
    """Clients ask all the time; yields the replicas that have answered."""
    stop, seen = threading.Event(), set[str]()

    def insist() -> None:
        while not stop.is_set():
            id_ = ask(url, "wait 1 s")["id"]
            decision = httpx.get(f"{url}/v1/decisions/{id_}", timeout=PATIENCE_S).json()
            seen.add((decision["completion"] or {}).get("replica", ""))

    with ThreadPoolExecutor(CLIENTS) as threads:
        asked = [threads.submit(insist) for _ in range(CLIENTS)]
        try:
            yield seen
        finally:
            stop.set()
        for each in asked:
            each.result()


def test_load_brings_a_second_replica_and_it_serves(url: str) -> None:
    assert len(replicas("Model")) == 1
    with asking(url) as seen:
        eventually(lambda: len(replicas("Model")) == 2)
        eventually(lambda: len(seen - {""}) == 2)
