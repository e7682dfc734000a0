"""How quickly the page is there, and how quickly one click on Train shows a curve.

    python benchmarks/page.py [--json FILE]

Starts the app on a free port with an empty runs folder, drives it in Chromium, and prints: seconds to HTTP 200,
whether torch was loaded by then, seconds from the click to the first drawn point with the model still cold and with
it warm, and seconds of the whole default run.
"""

from __future__ import annotations

import argparse
import json
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools.screenshots import FLAGS, chromium, wait_for  # noqa: E402

POINTS = "() => [...document.querySelectorAll('#train-chart .js-plotly-plot')].some(" \
         "d => d._fullData && d._fullData.some(t => t.x && t.x.length > 0))"
RUNNING = "() => /running|queued/.test(document.querySelector('#train-chart')?.innerText ?? '')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        found = measure(Path(runs))
    found |= {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine()}
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(runs: Path) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    app = subprocess.Popen([sys.executable, "app.py", "--port", str(port), "--runs-dir", str(runs)], cwd=ROOT)
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        found: dict[str, Any] = {"seconds_to_http_200": round(time.perf_counter() - began, 2)}
        found["torch_loaded_by_then"] = "libtorch_cpu" in Path(f"/proc/{app.pid}/maps").read_text()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator("#train-go").wait_for()
            found["seconds_click_to_first_point_cold"] = click_to_point(page)
            page.locator("#train-result table").wait_for(timeout=900_000)
            page.locator("#train-go").wait_for()
            found["seconds_click_to_first_point_warm"] = click_to_point(page)
            began = time.perf_counter()
            page.wait_for_function(f"!({RUNNING})()", timeout=900_000)
            found["seconds_of_the_default_run"] = round(time.perf_counter() - began, 1)
            browser.close()
        return found
    finally:
        app.terminate()
        app.wait(60)


def click_to_point(page: Page) -> float:
    """Seconds from a click on Train to the first point of the new run."""
    title = page.locator("#train-title").inner_text() if page.locator("#train-title").count() else ""
    began = time.perf_counter()
    page.locator("#train-go").click()
    page.wait_for_function(
        "title => (document.querySelector('#train-title')?.innerText ?? '') !== title", arg=title, timeout=60_000
    )
    page.wait_for_function(f"({RUNNING})() && ({POINTS})()", timeout=60_000)
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
