"""A real Chromium without a screen, Debian's: tests of pages look at them as people do.

The first that asks installs what the machine lacks, by apt-get where that can be done here.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support.debian import ensure

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
"""Program → Debian's package."""
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
_SWITCHES = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars")
_LONGEST_S = 30.0
"""Of one answer: selenium itself waits for 120 s, and then asks again."""
_WHEN = """
const [come, done] = arguments;
const test = new Function("return " + come);
if (test()) { done(); return; }
const seen = new MutationObserver(() => { if (test()) { seen.disconnect(); done(); } });
seen.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
"""


def ensure_packages() -> None:
    """Installs what is missing.

    Raises:
        RuntimeError: it cannot be done here; says what to install.
    """
    ensure(_missing, why="pages are tested with them")


def _missing() -> list[str]:
    return [package for name, package in PACKAGES.items() if shutil.which(name) is None]


class Browser:
    """A window of it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def sized(self, width: int, height: int = 900) -> Self:
        """The same in another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return self

    def printing(self, on: bool) -> None:
        """The page as it is printed, until this is called again."""
        media = {"media": "print" if on else ""}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def open(self, address: str) -> None:
        """Opens a page, and waits for its pictures."""
        self._driver.get(address)
        wait = "const done = arguments[0]; drawn.then(() => done(null), (e) => done(String(e)))"
        assert self._driver.execute_async_script(wait) is None

    def when(self, condition: str) -> None:
        """Waits until an expression holds, which a change of the page makes true."""
        self._driver.execute_async_script(_WHEN, condition)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first element of a kind."""
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def actions(self) -> ActionChains:
        """What a hand does."""
        return ActionChains(self._driver)

    def complaints(self) -> list[str]:
        """What came to the console since it was asked last."""
        told = self._driver.execute("getLog", {"type": "browser"})
        return [json.dumps(one) for one in told["value"]]

    def seen(self) -> bytes:
        """What the window shows, as PNG."""
        shown: bytes = self._driver.get_screenshot_as_png()
        return shown

    def shoot(self, name: str) -> Path:
        """A picture of the whole page, in `SCREENSHOTS`."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return document.documentElement.clientWidth")
        self.sized(width, height)
        path = SCREENSHOTS / f"{name}.png"
        assert self._driver.save_screenshot(str(path))
        self.sized(width)
        return path


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its files in `folder`."""
    ensure_packages()
    options = webdriver.ChromeOptions()
    for switch in (*_SWITCHES, f"--user-data-dir={folder}"):
        options.add_argument(switch)
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_script_timeout(_LONGEST_S)
        driver.set_page_load_timeout(_LONGEST_S)
        yield Browser(driver)
    finally:
        driver.quit()
