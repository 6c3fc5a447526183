"""The dashboard as a person uses it: looks, waits, clicks and types."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")
PATIENCE_S = 60.0


class Page:
    """One visit after the other, in one browser."""

    def __init__(self, chrome: Chrome) -> None:
        self._chrome = chrome
        self.expected: list[str] = []  # what the console may say, where a test provokes it

    def open(self, url: str) -> "Page":
        self._chrome.get(url)
        return self

    def find(self, selector: str) -> WebElement:
        """The first element of a CSS selector that can be seen, once it is there."""
        return self.until(lambda: next((one for one in self.all(selector) if one.is_displayed()), None))

    def all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self._chrome.find_elements(By.CSS_SELECTOR, selector)
        return found

    def text(self, selector: str) -> str:
        """The text of an element."""
        found: str = self.until(lambda: self.find(selector).text)
        return found

    def shows(self, selector: str, text: str) -> None:
        """Wait until the element says so."""
        self.until(lambda: text in self._chrome.find_element(By.CSS_SELECTOR, selector).text)

    def until(self, condition: Callable[[], T | None]) -> T:
        """What the condition comes to, once it does; the page may be drawn anew meanwhile."""
        ignored = (NoSuchElementException, StaleElementReferenceException)
        found: T = WebDriverWait(self._chrome, PATIENCE_S, 0.1, ignored).until(lambda _: condition())
        return found

    def press(self, *keys: str) -> None:
        ActionChains(self._chrome).send_keys(*keys).perform()

    def hover(self, selector: str) -> None:
        ActionChains(self._chrome).move_to_element(self.find(selector)).perform()

    def run(self, script: str) -> Any:
        """The value of some JavaScript on the page."""
        return self._chrome.execute_script(script)

    def focused(self) -> WebElement:
        return self._chrome.switch_to.active_element

    def window(self, width: int, height: int) -> None:
        self._chrome.set_window_size(width, height)

    def dark(self, *, on: bool) -> None:
        """What the system prefers."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self._chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, file: Path) -> None:
        """Photograph the whole page, as far down as it goes."""
        size = self._chrome.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self._chrome.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(shot["data"]))

    def forget(self) -> None:
        """Storage, cookies and logs of earlier visits."""
        self.leave()
        self._chrome.execute_cdp_cmd("Network.clearBrowserCache", {})
        self.dark(on=False)
        for kind in ("browser", "performance"):
            self._chrome.get_log(kind)

    def leave(self) -> None:
        if self._chrome.current_url.startswith("http"):
            self.run("localStorage.clear(); sessionStorage.clear()")
        self._chrome.get("about:blank")

    def complaints(self) -> list[str]:
        """What the console said since, and requests to other hosts."""
        said = [entry["message"] for entry in self._chrome.get_log("browser")]
        return [line for line in said if not any(part in line for part in self.expected)] + self._foreign()

    def _foreign(self) -> list[str]:
        events = [json.loads(entry["message"])["message"] for entry in self._chrome.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if urlsplit(url).hostname not in (None, "127.0.0.1")]
