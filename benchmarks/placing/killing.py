"""One Model replica is killed with -9 under load: whose requests fail, and when its place is taken."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.placing.comparing import caches
from benchmarks.placing.load import Asked, play, trace
from benchmarks.placing.world import REPLICAS

_CLIENTS: Final = 8
_RAMP_S: Final = 1.0
_GIVE_UP_S: Final = 180.0
_POLL_S: Final = 0.1


class Healing(NamedTuple):
    """What a kill did.

    `own` requests failed that were at the killed replica, `others` that were not; `resent` ones went to another one.
    `cut_s`: until the view no longer shows it, `whole_s`: until all replicas are shown and the new one has served.
    """

    answered: int
    own: int
    others: int
    resent: int
    cut_s: float
    whole_s: float
    said: list[str]


async def kill(url: str, adapters: Sequence[str], seed: int) -> Healing:
    """Kill the busiest replica, and keep asking until the new one has served."""
    async with httpx.AsyncClient(base_url=url, timeout=_GIVE_UP_S) as http:
        resent, load = await _resent(http), _Load(http, adapters, seed)
        asking = asyncio.create_task(load.run())
        await asyncio.sleep(_RAMP_S)
        views = await caches(http)
        victim = max(views, key=lambda view: sum(entry["pins"] for entry in view["device"]))["replica"]
        os.kill(_pid(victim), signal.SIGKILL)
        cut_s, whole_s = await _healed(http, victim)
        load.ended = True
        await asking
        failures = [failure for asked in load.rounds for failure in asked.failures]
        own = [failure for failure in failures if f"replica '{victim}' is gone" in failure.said]
        return Healing(
            answered=sum(len(asked.first_ms) for asked in load.rounds),
            own=len(own),
            others=len(failures) - len(own),
            resent=await _resent(http) - resent,
            cut_s=cut_s,
            whole_s=whole_s,
            said=sorted({failure.said for failure in failures if failure not in own})[:5],
        )


class _Load:
    """Rounds of requests, until it is told to end."""

    def __init__(self, http: httpx.AsyncClient, adapters: Sequence[str], seed: int) -> None:
        self._http = http
        self._adapters = adapters
        self._seed = seed
        self.rounds: list[Asked] = []
        self.ended = False

    async def run(self) -> None:
        while not self.ended:
            number = 1000 * (self._seed + 1) + len(self.rounds)
            self.rounds.append(await play(self._http, trace(self._adapters, 40, number), _CLIENTS, number))


async def _healed(http: httpx.AsyncClient, victim: str) -> tuple[float, float]:
    """Seconds until the victim is no longer shown, and until as many replicas as before are, and have served."""
    start, waited, cut_s = time.monotonic(), 0.0, None
    while waited < _GIVE_UP_S:
        try:
            views = await caches(http)
        except httpx.HTTPStatusError:
            views = []
        waited = time.monotonic() - start
        if cut_s is None and views and victim not in {view["replica"] for view in views}:
            cut_s = waited
        served = [view for view in views if view["replica"] != victim and view["hits"] + view["misses"]]
        if cut_s is not None and len(served) == REPLICAS:
            return cut_s, waited
        await asyncio.sleep(_POLL_S)
    return cut_s or _GIVE_UP_S, _GIVE_UP_S


async def _resent(http: httpx.AsyncClient) -> int:
    """Requests that were sent again so far."""
    text = (await http.get("metrics")).text
    families = [family for family in text_string_to_metric_families(text) if family.name == "pointsman_resent"]
    return int(sum(s.value for family in families for s in family.samples if s.name.endswith("_total")))


def _pid(replica: str) -> int:
    """The process of a Model replica."""
    import ray._private.state as state  # without its dashboard Ray has no other way to ask

    (pid,) = [actor["Pid"] for actor in state.actors().values() if replica in actor["Name"]]
    return int(pid)
