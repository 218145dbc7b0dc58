"""A headless chromium for tests, or the reason why there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"
WINDOW = (1200, 1000)


@contextmanager
def browser(downloads: Path) -> Iterator[Any]:
    """A driver whose downloads go to a folder; skips the test where browser or selenium are absent."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if not found or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = found
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    window = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    window.set_window_size(*WINDOW)
    try:
        yield window
    finally:
        window.quit()


def emulate(window: Any, *, scheme: str = "light", width: int = WINDOW[0]) -> None:
    """A light or a dark scheme, on a screen so wide."""
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": WINDOW[1], "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
