"""The real app in a process of its own, and a Chromium that drives it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from softprompt_core.records import ENDED, RunInfo
from softprompt_core.store import Store

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90
WAIT_MILLISECONDS = 45_000
FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]


@dataclass(frozen=True)
class App:
    """A running app: where it listens, its runs, and what it has printed so far."""

    url: str
    store: Store
    output: Path

    def newest(self) -> RunInfo:
        """The run made last."""
        return self.store.runs(limit=1)[0]

    def wait_for_end(self, run_id: str, *, seconds: float = 90) -> RunInfo:
        """The run when it has ended."""
        deadline = time.monotonic() + seconds
        while (info := self.store.run(run_id)).status not in ENDED:
            assert time.monotonic() < deadline, f"still {info.status} at step {info.step}"
            time.sleep(0.1)
        return info

    def call(self, endpoint: str, *arguments: Any) -> Any:
        """What an HTTP endpoint answers."""
        from gradio_client import Client

        return Client(self.url, verbose=False).predict(*arguments, api_name=endpoint)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app on a free port with an empty runs folder."""
    folder, port = tmp_path_factory.mktemp("app"), free_port()
    output = folder / "output.txt"
    with open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--runs-dir", str(folder / "runs")],
            stdout=file, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until_served(url, process, output)
        yield App(url, Store(folder / "runs"), output)
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_served(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    """Returns when the page is there."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, output.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"not served within {START_SECONDS} s: {output.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium: $CHROMIUM, else the system's, else playwright's own."""
    expect.set_options(timeout=WAIT_MILLISECONDS)
    named = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=named, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    """A fresh tab; the test fails if the page raised an error or asked anything of another machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(WAIT_MILLISECONDS)
    errors: list[str] = []
    foreign: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: None if is_own(request.url, app.url) else foreign.append(request.url))
    yield tab
    with_errors = list(errors)
    with contextlib.suppress(Error):
        context.close()
    assert not with_errors, with_errors
    assert not foreign, foreign


def is_own(url: str, own: str) -> bool:
    """Whether a request stays with the app."""
    return url.startswith((own, "data:", "blob:"))
