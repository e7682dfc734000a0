from __future__ import annotations

import pytest
import torch

from softprompt_core import training
from softprompt_core.config import TrainConfig
from softprompt_core.control import Control
from softprompt_core.jobs.execute import execute, passes
from softprompt_core.records import EndRecord, Snapshot, StepRecord
from softprompt_core.store import Store


@pytest.fixture
def claimed(tmp_path):
    """(store, id of a claimed run)."""
    store = Store(tmp_path / "runs")
    run_id = store.create(TrainConfig())
    store.claim([run_id], owner="me")
    return store, run_id


def snapshot(run_id):
    return Snapshot(run_id, 1, torch.zeros(2, 4).numpy(), kind="selected")


def test_selected_prompt_is_on_disk_before_the_final_test_begins(claimed, monkeypatch):
    store, run_id = claimed
    found = []

    def trained(runs, *, control, **_):
        yield StepRecord(run_id, 1, 0.1, 1.0, 0.1, 1.0, 10, 0.1)
        yield snapshot(run_id)
        found.append((store.folder(run_id) / "prompt.safetensors").exists())
        yield EndRecord(run_id, "done")

    monkeypatch.setattr(training, "train", trained)
    execute(store, {run_id: TrainConfig()}, Control(), owner="me")
    assert found == [True]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_running_out_is_said_plainly_and_is_no_fault(claimed, monkeypatch, error):
    store, run_id = claimed

    def trained(runs, *, control, **_):
        yield snapshot(run_id)
        raise error

    monkeypatch.setattr(training, "train", trained)
    execute(store, {run_id: TrainConfig()}, Control(), owner="me")
    info = store.run(run_id)
    assert info.status == "failed"
    assert "smaller batch size" in info.reason
    assert store.prompt(run_id).shape == (2, 4)


def test_a_fault_here_does_not_end_a_run_that_another_process_goes_on_with(claimed, monkeypatch):
    store, lost = claimed
    own, control = store.create(TrainConfig()), Control()
    store.claim([own], owner="me")

    def trained(runs, *, control, **_):
        store.set_status(lost, "interrupted")
        store.requeue(lost, owner="elsewhere:1:abcd")
        store.claim([lost], owner="elsewhere:1:abcd")
        control.lose(lost)
        yield snapshot(own)
        raise MemoryError

    monkeypatch.setattr(training, "train", trained)
    execute(store, dict.fromkeys([lost, own], TrainConfig()), control, owner="me")
    assert (store.run(own).status, store.run(lost).status) == ("failed", "running")


def test_runs_are_divided_by_what_they_share_and_by_how_many_rows_fit():
    alike = {f"a{i}": TrainConfig(batch_size=100, seed=i) for i in range(3)}
    other = {"b": TrainConfig(batch_size=1_000, virtual_tokens=5)}
    divided = passes(alike | other)
    assert [list(together) for together in divided] == [["a0", "a1"], ["a2"], ["b"]]
