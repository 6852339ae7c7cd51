"""A real browser for the dashboard: Debian's chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

PATH = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium")
WHY_NOT = "no chromium here: apt-get install chromium, or name one with TEST_CHROMIUM"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Without a sandbox of its own: tests run as root in containers, and visit nothing but this machine."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=PATH, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
