"""Takes the README's pictures from the real page: `make screenshots`.

Starts the app on a free port with an empty runs folder, trains on the bundled data, and writes
assets/screenshots/{train,inspect,compare}.png.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "assets" / "screenshots")
    parser.add_argument("--scheme", default="light", choices=("light", "dark"))
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--runs-dir", "runs"]
        app = subprocess.Popen(command, cwd=folder)
        try:
            wait_for(f"http://127.0.0.1:{port}/")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
                page = browser.new_page(viewport={"width": 1360, "height": 900}, color_scheme=options.scheme)
                page.goto(f"http://127.0.0.1:{port}/")
                take(page, options.to)
                browser.close()
        finally:
            app.terminate()
            app.wait(30)


def take(page: Page, folder: Path) -> None:
    """Trains once with what the page is filled with, then compares; photographs each tab."""
    page.locator("#train-go").click()
    page.locator("#train-result table").wait_for(timeout=900_000)
    page.wait_for_timeout(2_000)
    page.screenshot(path=folder / "train.png")
    page.get_by_role("button", name="Inspect this run").click()
    page.locator("#inspect-view .js-plotly-plot").first.wait_for(timeout=120_000)
    page.wait_for_timeout(4_000)
    page.screenshot(path=folder / "inspect.png")
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.get_by_role("button", name="Compare initialisations").click()
    page.get_by_text(re.compile("Mean test accuracy")).first.wait_for(timeout=1_800_000)
    page.wait_for_timeout(3_000)
    page.screenshot(path=folder / "compare.png", full_page=True)


def chromium() -> str | None:
    """The system's Chromium, None for playwright's own."""
    named = os.environ.get("CHROMIUM")
    return named or next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(p).exists()), None)


def wait_for(url: str, *, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the page did not come up on {url}")


if __name__ == "__main__":
    main()
