"""One runs folder with a finished run on the bundled data, made through the command line and shared by all tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from softprompt_core.cli import main
from softprompt_core.environment import prepare_environment
from softprompt_core.store import Store

prepare_environment()                   # nothing above imports torch, which reads these settings once
os.environ["HF_HUB_OFFLINE"] = "1"      # an unknown name must fail here, not at somebody's server

STEPS = 12

settings.register_profile("steady", deadline=None, derandomize=True)     # a busy machine is no failure
settings.load_profile("steady")


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything beside it is an error."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Trained:
    """A runs folder with one finished run; tests must leave both as they are."""

    runs_dir: Path
    run_id: str
    outcome: Outcome

    @property
    def store(self) -> Store:
        return Store(self.runs_dir)


def run_command(*arguments: object) -> Outcome:
    """Runs the real command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:      # --help
            code = int(ended.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def command() -> Callable[..., Outcome]:
    """The command line as a function of its arguments."""
    return run_command


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`softprompt train --data complaints --json` with a few steps."""
    runs_dir = tmp_path_factory.mktemp("trained")
    outcome = run_command(
        "train", "--data", "complaints", "--steps", STEPS, "--virtual-tokens", 8, "--eval-every", 6, "--json",
        "--runs-dir", runs_dir,
    )
    assert outcome.code == 0, outcome.stderr
    return Trained(runs_dir, outcome.document["run_id"], outcome)


@pytest.fixture(scope="session")
def mail_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 short rows, two labels that one word tells apart: enough to train on within a second."""
    path = tmp_path_factory.mktemp("mail") / "mail.csv"
    rows = [f"parcel {i} came late,bad\nparcel {i} came early,good\n" for i in range(30)]
    path.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return path
