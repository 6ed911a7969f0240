"""The browser for the tests of the page: the system's own, or one that is installed now, or a loud failure."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.servers import locked

SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_SECONDS = 600
# No sandbox under root, and nothing that would call home.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class NoBrowser(Exception):
    """There is no browser, and none could be installed."""


@contextmanager
def open_browser(lock: Path) -> Iterator[Browser]:
    """A headless Chromium or Chrome; of several processes one installs it, the others wait. Raises NoBrowser."""
    with sync_playwright() as playwright:
        with locked(lock):
            path = find_browser(Path(playwright.chromium.executable_path))
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def find_browser(downloaded: Path) -> str:
    """Where the browser lies: found on the system, else installed by the package manager, else Playwright's own.

    Args:
        downloaded: where Playwright keeps, or would keep, its own.

    Raises:
        NoBrowser: with everything that was tried.
    """
    tried = [f"looked for {', '.join(SYSTEM_NAMES)}"]
    if found := _on_the_system():
        return found
    if downloaded.exists():
        return str(downloaded)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        tried.append(run_installer("apt-get", "update"))
        tried.append(run_installer("apt-get", "install", "--yes", "--no-install-recommends", "chromium"))
        if found := _on_the_system():
            return found
    tried.append(run_installer("playwright", "install", "chromium"))
    if downloaded.exists():
        return str(downloaded)
    raise NoBrowser("The tests of the page need a browser. Install Chromium or Chrome. Tried:\n" + "\n".join(tried))


def _on_the_system() -> str | None:
    return next(filter(None, map(shutil.which, SYSTEM_NAMES)), None)


def run_installer(*command: str, folder: Path | None = None) -> str:
    """Run a package manager, in a folder; what became of it, for the report."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}"
    return f"{' '.join(command)}: status {done.returncode}. {(done.stderr or done.stdout).strip()[-300:]}"
