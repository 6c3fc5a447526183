"""A headless Chromium, and services for it to look at: on the scripted engine, and on the embedded model."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from cluster.redis_server import free_port
from cluster.settings import Settings
from services import launch
from tests.browser.page import Page
from tests.services.conftest import fit
from tests.services.fakes import FakeEngine
from tests.services.world import BASE, World, end, listening, running, write_adapters

T = TypeVar("T")
ARTIFACTS = Path(__file__).parent / "screenshots"
"""Where tests leave what they have seen; git ignores it."""

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--window-size=1440,2200",
    "--lang=en-GB",
)


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    """The system's Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.fail("there is no Chromium with its driver (Debian: apt-get install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options, ChromeService(driver))
    yield browser
    browser.quit()


class Service:
    """A world in a thread of its own, whose Learner runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Service":
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of something that runs where the service does."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _start(self) -> None:
        self._stack = AsyncExitStack()
        self.world = await self._stack.enter_async_context(running(World(self._settings, fit(4.0), FakeEngine())))
        self._listening = AsyncExitStack()
        self.url = await self._listening.enter_async_context(listening(self.world.app))
        self._learning = asyncio.create_task(self.world.learner.run(self.world.registry))

    async def hide(self) -> None:
        """Let nobody reach the service any more."""
        await self._listening.aclose()

    async def come_back(self) -> None:
        """Listen again where it was."""
        port = int(self.url.rpartition(":")[2])
        await self._listening.enter_async_context(listening(self.world.app, port))

    async def _stop(self) -> None:
        await self._listening.aclose()
        await end(self._learning)
        await self._stack.aclose()


MakeService = Callable[..., Service]


@pytest.fixture
def make_service(redis_url: str, prefix: str, tmp_path: Path) -> Iterator[MakeService]:
    """Starts services on the scripted engine, with settings by group."""
    made: list[Service] = []

    def make(**groups: dict[str, Any]) -> Service:
        values: dict[str, dict[str, Any]] = {
            "model": {"name": BASE, "adapters": write_adapters(tmp_path / "adapters")},
            "router": {"refresh_s": 0.2},
            "store": {"url": redis_url, "prefix": prefix, "data_dir": tmp_path, "keep_screens": 20},
        }
        settings = Settings.model_validate(
            {name: values.get(name, {}) | groups.get(name, {}) for name in {*values, *groups}}
        )
        made.append(Service(settings).__enter__())
        return made[-1]

    yield make
    for service in reversed(made):
        service.__exit__()


@pytest.fixture
def page(chrome: Chrome, request: pytest.FixtureRequest, make_service: MakeService) -> Iterator[Page]:
    """The dashboard in a browser that forgets, and leaves before any service goes.

    Nothing may be said on its console, and nothing asked of other hosts.
    """
    del make_service  # it is here for the order alone
    page = Page(chrome)
    page.forget()
    yield page
    ARTIFACTS.mkdir(exist_ok=True)
    page.picture(ARTIFACTS / f"{request.node.name}.png")
    page.leave()
    assert page.complaints() == []


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the whole service on Ray Serve, with the embedded Qwen3-VL and its adapters."""
    store = {"data_dir": tmp_path_factory.mktemp("data"), "keep_screens": 20}
    with launch.running(Settings.model_validate({"server": {"port": free_port()}, "store": store})) as url:
        yield url
