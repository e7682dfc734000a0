"""A run opened for reading: on the model it was trained on, and told as changed without being read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from softprompt_core import operations
from softprompt_core.config import TrainConfig
from softprompt_core.models import load_model
from softprompt_core.records import EndRecord, Snapshot
from softprompt_core.store import Store
from softprompt_core.ui.context import Context
from softprompt_core.ui.opened import open_run, prompt_stamp


def test_run_is_read_on_the_model_it_was_trained_on_wherever_the_app_would_put_a_new_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_id = store.create(TrainConfig(device="cpu", virtual_tokens=2), status="running")
    width = load_model("bundled", device="cpu").hidden_size
    store.append([Snapshot(run_id, 0, np.ones((2, width), np.float32), kind="selected"), EndRecord(run_id, "done")])
    context = Context(store, runner=None, device="cuda:7")  # type: ignore[arg-type]
    opened = open_run(context, run_id)
    assert opened.space.vocabulary.table.shape[1] == width
    assert operations.base_of(store, run_id) is load_model("bundled", device="cpu")


def test_stamp_changes_with_the_prompt_and_is_empty_without_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    context = Context(store, runner=None)  # type: ignore[arg-type]
    run_id = store.create(TrainConfig(virtual_tokens=2), status="running")
    assert prompt_stamp(context, run_id) == ""
    stamps = []
    for kind, step in (("trajectory", 0), ("live", 3), ("live", 4), ("selected", 4)):
        store.append([Snapshot(run_id, step, np.full((2, 3), step, np.float32), kind=kind)])  # type: ignore[arg-type]
        stamps.append(prompt_stamp(context, run_id))
        time.sleep(0.02)        # file systems tell times of a few milliseconds apart
        assert prompt_stamp(context, run_id) == stamps[-1]
    assert len(set(stamps)) == 4
    store.append([EndRecord(run_id, "done")])
    assert prompt_stamp(context, run_id).startswith("prompt")
