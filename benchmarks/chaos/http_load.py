"""Clients of the service, over HTTP: they ask, reward, and try again until they have an answer."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import uuid4

import httpx

from benchmarks.chaos.ledger import Ledger, account
from benchmarks.chaos.stage import Books, until
from cluster.store import Store

_INSTRUCTIONS = ("Click on the red box.", "Pick the third tab.", "Select the circle.", "Press the button.")
_LABEL = "anonymous"
_PATIENCE_S = 300.0
_RETRY_S = 0.1
_WORKERS = 4


class HttpLoad:
    """A try again of a request has its first one's id: it is the same decision, if that was written."""

    def __init__(self, http: httpx.AsyncClient, store: Store, seed: int) -> None:
        self.ledger = Ledger()
        self._http = http
        self._store = store
        self._chance = random.Random(seed)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work(stopped, group))
            try:
                yield
            finally:
                stopped.set()

    async def whole(self) -> None:
        asked = await self._ask()
        while not asked["routing"]["durable"]:
            await asyncio.sleep(_RETRY_S)
            asked = await self._ask()
        await self._reward(asked["id"])
        await until(partial(self._is_matured, asked["id"]))

    async def books(self) -> Books:
        await until(self._is_level)
        found = await self._insist("GET", "/v1/bandit/verify", params={"whole": True})
        counts = all(arm["counts_equal"] for arm in found["arms"])
        largest = max((arm[name] for arm in found["arms"] for name in ("S", "e", "P")), default=0.0)
        return Books(await account(self._store, self.ledger), largest if counts else float("inf"))

    async def _work(self, stopped: asyncio.Event, group: asyncio.TaskGroup) -> None:
        while not stopped.is_set():
            asked = await self._ask()
            if self._chance.random() < 0.8:
                group.create_task(self._reward(asked["id"]))  # it goes on asking while rewards are refused

    async def _ask(self) -> Any:
        body = {"messages": [{"role": "user", "content": self._chance.choice(_INSTRUCTIONS)}], "model": "auto"}
        headers, began = {"x-client-request-id": uuid4().hex}, time.monotonic()
        answer = await self._insist("POST", "/v1/chat/completions", "failed", json=body, headers=headers)
        routing = answer["routing"]
        self.ledger.promised(answer["id"], routing["arm"], took_s=time.monotonic() - began, durable=routing["durable"])
        return answer

    async def _reward(self, decision_id: str) -> None:
        reward = self._chance.random()
        body = {"decision_id": decision_id, "reward": reward}
        said = await self._insist("POST", "/v1/feedback", "refused", json=body)
        self.ledger.heard(decision_id, _LABEL, reward, said["results"][0]["status"])

    async def _insist(self, method: str, path: str, failing: str = "", **arguments: Any) -> Any:
        """The JSON of an answer, however often it takes."""
        deadline, said = time.monotonic() + _PATIENCE_S, ""
        while time.monotonic() < deadline:
            wait_s = _RETRY_S
            try:
                response = await self._http.request(method, path, **arguments)
                if response.is_success:
                    return response.json()
                said, wait_s = response.text, float(response.headers.get("retry-after", _RETRY_S))
            except httpx.HTTPError as error:
                said = repr(error)
            if failing:
                self.ledger.saw(failing)
            await asyncio.sleep(wait_s)
        raise RuntimeError(f"{method} {path} was not answered within {_PATIENCE_S:g} s: {said[:200]}")

    async def _is_matured(self, decision_id: str) -> bool:
        view = await self._insist("GET", f"/v1/decisions/{decision_id}")
        return bool(view["ledger"]) and view["ledger"]["status"] == "matured"

    async def _is_level(self) -> bool:
        """Whether everything is written, folded and followed."""
        behind = (await self._insist("GET", "/v1/bandit"))["behind_events"]
        return not behind and self.ledger.promises.keys() <= await self._store.known(list(self.ledger.promises))
