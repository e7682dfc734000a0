"""Starting the app: what it refuses, what it says, and who may talk to it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from softprompt_core.errors import UserError
from softprompt_core.ui import launch
from tests.ui.conftest import App


def test_open_host_without_login_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--host", "0.0.0.0"]) == 2
    assert "--auth FILE" in capsys.readouterr().err


def test_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert launch.main(["--port", str(port)]) == 2
    assert f"Port {port}" in capsys.readouterr().err


def test_login_file_is_read_with_colons_in_passwords(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# who may come in\nana:a:b c\nben:x\n", encoding="utf-8")
    assert launch.read_users(path) == [("ana", "a:b c"), ("ben", "x")]
    path.write_text("ana\n", encoding="utf-8")
    with pytest.raises(UserError, match="user:password"):
        launch.read_users(path)


def test_page_is_built_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from softprompt_core.jobs.thread import ThreadRunner\n"
        "from softprompt_core.store import Store\n"
        "from softprompt_core.ui.context import Context\n"
        "from softprompt_core.ui.page import build_page\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "build_page(Context(store, ThreadRunner(store)))\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_app_says_where_it_is(app: App) -> None:
    line = f"Soft-prompt workbench on {app.url.rstrip('/')}"
    deadline = time.monotonic() + 20      # the page is there a moment before the line is
    while line not in app.output.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 400), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403)],
)
def test_foreign_names_and_pages_are_refused(app: App, headers: dict[str, str], status: int) -> None:
    request = urllib.request.Request(app.url, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == status
