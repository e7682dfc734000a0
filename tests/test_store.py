"""Runs on disk: what is written comes back, many may read while one writes, and damage is said plainly."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from softprompt_core import checkpoints
from softprompt_core.config import TrainConfig, parse_config
from softprompt_core.errors import UserError
from softprompt_core.records import (
    ENDED,
    Checkpoint,
    EndRecord,
    EvalRecord,
    LogRecord,
    PauseRecord,
    ResumeRecord,
    Snapshot,
    StartRecord,
    StepRecord,
)
from softprompt_core.store import LEASE_SECONDS, Store, write_json

PROMPT = np.arange(12, dtype=np.float32).reshape(3, 4)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path, clock) -> Store:
    return Store(tmp_path / "runs", clock=clock)


def step(run_id: str, number: int, loss: float = 1.5) -> StepRecord:
    return StepRecord(run_id, number, 0.25, loss, 0.03, 2.0, 640, 1.25)


def gone_owner() -> str:
    """An owner on this machine whose process has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{os.uname().nodename}:{process.pid}:abcd"


# -------------------------------------------------------------------- runs


def test_settings_of_a_run_come_back_equal_from_database_and_folder(store):
    config = TrainConfig(name="mine", steps=7, init="random", template="é {text}")
    run_id = store.create(config)
    assert store.config(run_id) == config
    assert parse_config(json.loads((store.folder(run_id) / "config.json").read_text(encoding="utf-8"))) == config


def test_new_run_is_queued_and_named_after_data_start_and_seed(store):
    info = store.run(store.create(TrainConfig(data="/tmp/My Mail.csv", seed=3)))
    assert (info.status, info.name, info.step, info.steps) == ("queued", "my-mail · text · seed 3", 0, 300)


def test_runs_are_listed_newest_first_and_groups_in_the_order_made(store, clock):
    group = store.new_group_id()
    made = []
    for seed in range(3):
        clock.now += seed % 2       # two of them in the same second
        made.append(store.create(TrainConfig(seed=seed), group_id=group))
    assert [info.run_id for info in store.runs()] == made[::-1]
    assert [info.run_id for info in store.group(group)] == made
    assert len(store.runs(limit=2)) == 2


def test_many_runs_of_one_second_get_different_ids(store):
    assert len({store.create(TrainConfig()) for _ in range(100)}) == 100


def test_unknown_run_is_refused_with_where_to_look(store):
    for ask in (store.run, store.config, store.delete, store.prompt, store.ask_to_stop):
        with pytest.raises(UserError, match=r"no run 'nope'.*runs list"):
            ask("nope")
    assert not store.has_run("nope")


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", ".hidden", "a\\b", "x" * 200, "a\n"])
def test_id_that_could_leave_the_folder_is_refused(store, run_id):
    with pytest.raises(UserError, match="no run id"):
        store.folder(run_id)


def test_rename_survives_in_the_folder(store):
    run_id = store.create(TrainConfig())
    store.rename(run_id, " better name ")
    assert store.run(run_id).name == "better name"
    assert json.loads((store.folder(run_id) / "run.json").read_text(encoding="utf-8"))["name"] == "better name"


def test_rename_to_a_path_is_refused_and_keeps_the_name(store):
    run_id = store.create(TrainConfig(name="old"))
    with pytest.raises(UserError, match="plain name"):
        store.rename(run_id, "../new")
    assert store.run(run_id).name == "old"


def test_delete_removes_run_metrics_and_folder_and_nothing_else(store):
    gone, kept = store.create(TrainConfig()), store.create(TrainConfig())
    for run_id in (gone, kept):
        store.append([step(run_id, 1), LogRecord(run_id, "info", "hello"), EndRecord(run_id, "done")])
    store.delete(gone)
    assert not store.has_run(gone)
    assert not store.folder(gone).exists()
    assert store.metrics(gone) == []
    assert store.logs(gone) == []
    assert store.metrics(kept) == [step(kept, 1)]
    assert store.folder(kept).is_dir()


@pytest.mark.parametrize("status", ["queued", "running", "paused"])
def test_run_at_work_is_not_deleted(store, status):
    run_id = store.create(TrainConfig(), status=status)
    with pytest.raises(UserError, match="still at work"):
        store.delete(run_id)
    assert store.has_run(run_id)


# ----------------------------------------------------------------- records


def test_every_kind_of_record_comes_back_equal(store):
    run_id = store.create(TrainConfig())
    steps = [step(run_id, n, loss=2 / n) for n in (1, 2, 3)]
    look = EvalRecord(run_id, 3, "validation", 0.5, 0.75, 0.7, 80)
    plain = EvalRecord(run_id, 3, "test", None, 0.5, None, 200, "majority")
    log = LogRecord(run_id, "warning", "<b>ä</b>")
    store.append([StartRecord(run_id, {"labels": ["a"]}), *steps, look, plain, log])
    assert store.metrics(run_id) == steps
    assert sorted(store.evals(run_id), key=lambda e: e.split) == [plain, look]
    assert store.logs(run_id) == [(1_000.0, log)]
    assert store.facts(run_id) == {"labels": ["a"]}
    assert store.run(run_id).step == 3


def test_losses_keep_their_last_digit(store):
    run_id = store.create(TrainConfig())
    losses = np.random.default_rng(0).lognormal(size=50).tolist()
    store.append(step(run_id, n, loss) for n, loss in enumerate(losses, start=1))
    assert [record.loss for record in store.metrics(run_id)] == losses


def test_metrics_after_a_cursor_are_only_the_later_ones(store):
    run_id = store.create(TrainConfig())
    store.append(step(run_id, n) for n in range(1, 11))
    assert [r.step for r in store.metrics(run_id, after=7)] == [8, 9, 10]
    assert [r.step for r in store.metrics(run_id, after=2, limit=3)] == [3, 4, 5]
    assert store.metrics(run_id, after=10) == []


def test_batch_that_fails_half_way_leaves_no_trace(store):
    run_id = store.create(TrainConfig())
    with pytest.raises(sqlite3.Error):
        store.append([step(run_id, 1), step(run_id, None)])
    assert store.metrics(run_id) == []
    store.append([step(run_id, 1)])
    assert len(store.metrics(run_id)) == 1


def test_ending_writes_metrics_and_result_beside_the_run(store):
    run_id = store.create(TrainConfig())
    store.append([step(run_id, 1), step(run_id, 2), EndRecord(run_id, "done", "", {"eval_accuracy": 0.8})])
    folder = store.folder(run_id)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [StepRecord(**json.loads(line)) for line in lines] == store.metrics(run_id)
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == {
        "status": "done", "reason": "", "eval_accuracy": 0.8,
    }
    info = store.run(run_id)
    assert (info.status, info.result) == ("done", {"eval_accuracy": 0.8})


def test_later_findings_are_added_to_the_result(store):
    run_id = store.create(TrainConfig())
    store.append([EndRecord(run_id, "done", "", {"a": 1})])
    store.update_result(run_id, {"b": 2})
    assert store.run(run_id).result == {"a": 1, "b": 2}


# ----------------------------------------------------------------- prompts


def test_prompt_comes_back_to_the_last_bit(store):
    run_id = store.create(TrainConfig())
    prompt = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    store.append([Snapshot(run_id, 4, prompt, kind="selected")])
    found = store.prompt(run_id)
    assert found.dtype == np.float32
    assert found.tobytes() == prompt.tobytes()


def test_prompt_is_the_newest_while_training_and_the_selected_one_after(store):
    run_id = store.create(TrainConfig())
    assert not store.has_prompt(run_id)
    with pytest.raises(UserError, match="no prompt yet"):
        store.prompt(run_id)
    seen = []
    for number, kind in ((0, "trajectory"), (1, "live"), (2, "trajectory"), (1, "selected")):
        store.append([Snapshot(run_id, number, PROMPT + number, kind=kind)])
        seen.append(store.prompt_at(run_id)[0])
        assert store.prompt(run_id)[0, 0] == number
    assert seen == [0, 1, 2, 1]
    store.append([EndRecord(run_id, "done")])
    assert store.prompt_at(run_id)[0] == 1
    assert not (store.folder(run_id) / "live.safetensors").exists()


def test_trajectory_keeps_every_snapshot_in_order_and_live_ones_stay_out(store):
    run_id = store.create(TrainConfig())
    for number, kind in ((0, "trajectory"), (1, "live"), (5, "trajectory"), (9, "trajectory"), (9, "trajectory")):
        store.append([Snapshot(run_id, number, PROMPT + number, kind=kind)])
    steps, prompts = store.snapshots(run_id)
    assert steps.tolist() == [0, 5, 9]
    assert np.array_equal(prompts, np.stack([PROMPT, PROMPT + 5, PROMPT + 9]))


def test_damaged_prompt_is_said_plainly(store):
    run_id = store.create(TrainConfig())
    store.append([Snapshot(run_id, 1, PROMPT, kind="selected"), EndRecord(run_id, "done")])
    (store.folder(run_id) / "prompt.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=r"prompt\.safetensors .* is damaged"):
        store.prompt(run_id)


def test_resumed_run_shows_its_newest_prompt_until_it_ends(store):
    run_id = store.create(TrainConfig())
    store.append([Snapshot(run_id, 4, PROMPT, kind="selected"), EndRecord(run_id, "stopped")])
    store.append([ResumeRecord(run_id, 5)])
    assert store.prompt_at(run_id)[0] == 4
    store.append([Snapshot(run_id, 6, PROMPT, kind="live")])
    assert store.prompt_at(run_id)[0] == 6
    store.append([EndRecord(run_id, "failed")])
    assert store.prompt_at(run_id)[0] == 4


def test_nothing_half_written_is_left_when_writing_fails(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 1, "b": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


# -------------------------------------------------------------- checkpoints


def checkpoint(run_id: str, number: int, *, size: int = 4, **facts) -> Checkpoint:
    tensors = {
        "trained.prompt_embeddings": np.random.default_rng(number).standard_normal((size, 4)).astype(np.float32),
        "optimizer.0.step": np.float32(number) * np.ones((), np.float32),     # AdamW counts in a tensor without axes
        "order": np.arange(7, dtype=np.uint8),
    }
    return Checkpoint(run_id, number, tensors, {"loss": 0.1 + number, "place": 3, **facts})


def cut(store: Store, run_id: str, number: int) -> None:
    """Truncates a checkpoint, as a hand or a dying disk would."""
    path = store.folder(run_id) / "checkpoints" / f"step-{number:08d}.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def test_checkpoint_comes_back_to_the_last_bit(store):
    run_id = store.create(TrainConfig())
    written = checkpoint(run_id, 120)
    store.append([written])
    assert (store.folder(run_id) / "checkpoints" / "step-00000120.safetensors").exists()
    found = store.checkpoint(run_id)
    assert (found.run_id, found.step, found.facts) == (run_id, 120, written.facts)
    assert found.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert found.tensors[name].tobytes() == tensor.tobytes()


def test_newest_whole_checkpoint_is_given_and_the_log_says_what_was_passed_over(store):
    run_id = store.create(TrainConfig())
    assert store.checkpoint(run_id) is None
    store.append(checkpoint(run_id, number) for number in (10, 20, 30))
    assert (store.checkpoints(run_id), store.checkpoint(run_id).step) == ([10, 20, 30], 30)
    cut(store, run_id, 30)
    assert store.checkpoint(run_id).step == 20
    assert "step 30 is damaged" in store.logs(run_id)[-1][1].text
    assert store.checkpoint(run_id, step=10).step == 10
    with pytest.raises(UserError, match="damaged"):
        store.checkpoint(run_id, step=30)
    with pytest.raises(UserError, match=r"no checkpoint of step 7\. Those it has: 10, 20, 30"):
        store.checkpoint(run_id, step=7)
    cut(store, run_id, 20)
    cut(store, run_id, 10)
    assert store.checkpoint(run_id) is None


def test_program_that_dies_while_it_writes_leaves_the_checkpoint_before(store):
    run_id = store.create(TrainConfig())
    store.append([checkpoint(run_id, 10)])
    code = (
        "import os, sys; from pathlib import Path; from softprompt_core import files; from softprompt_core.store import"
        " Store; from tests.test_store import checkpoint; files.os.replace = lambda *_: os.kill(os.getpid(), 9);"
        "Store(Path(sys.argv[1])).append([checkpoint(sys.argv[2], 20)])"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.root), run_id]).returncode == -9
    assert store.checkpoint(run_id).step == 10
    folder = store.folder(run_id) / "checkpoints"
    assert len(list(folder.iterdir())) == 2     # what was half written is no checkpoint,
    store.append([checkpoint(run_id, 30)])
    assert store.checkpoints(run_id) == [10, 30]
    assert len(list(folder.iterdir())) == 2     # and goes with the next one


def test_kill_at_any_moment_leaves_every_step_up_to_a_whole_checkpoint(store):
    code = (
        "import sys; from pathlib import Path; from softprompt_core.store import Store;"
        "from tests.test_store import checkpoint, step\n"
        "store, run_id, at = Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])\n"
        "while True:\n"
        "    at += 1\n"
        "    store.append([step(run_id, at), checkpoint(run_id, at, size=2_000)])\n"
        "    print(at, flush=True)"
    )
    run_id, drawn, at = store.create(TrainConfig()), random.Random(time.time_ns()), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(store.root), run_id, str(at)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(drawn.uniform(0, 0.1))
        process.kill()
        process.communicate()
        at = store.checkpoints(run_id)[-1]
        assert store.checkpoint(run_id).step == at      # the newest is whole
        store.append([ResumeRecord(run_id, at)])
        assert [record.step for record in store.metrics(run_id)] == list(range(1, at + 1))
    assert store.logs(run_id) == []     # none was damaged


def test_checkpoint_is_written_when_its_steps_are_safe(store):
    run_id = store.create(TrainConfig())
    with pytest.raises(sqlite3.Error):
        store.append([step(run_id, None), checkpoint(run_id, 10)])
    assert store.checkpoints(run_id) == []


def test_many_large_checkpoints_keep_the_best_and_the_last_two(store, monkeypatch):
    run_id = store.create(TrainConfig())
    store.append(checkpoint(run_id, number, best_step=20) for number in range(10, 60, 10))
    assert store.checkpoints(run_id) == [10, 20, 30, 40, 50]
    size = (store.folder(run_id) / "checkpoints" / "step-00000010.safetensors").stat().st_size
    monkeypatch.setattr(checkpoints, "KEPT_BYTES", 3.5 * size)
    store.append([checkpoint(run_id, 60, best_step=20)])
    assert store.checkpoints(run_id) == [20, 50, 60]
    monkeypatch.setattr(checkpoints, "KEPT_BYTES", 1)
    store.append([checkpoint(run_id, 70, best_step=20)])
    assert store.checkpoints(run_id) == [60, 70]


def test_copied_folder_has_metrics_and_result_at_every_checkpoint(store):
    run_id = store.create(TrainConfig())
    path = store.folder(run_id) / "metrics.jsonl"

    def steps_in_file():
        return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]

    store.append([*(step(run_id, n) for n in (1, 2)), checkpoint(run_id, 2), step(run_id, 3)])
    assert steps_in_file() == [1, 2, 3]
    assert json.loads((store.folder(run_id) / "result.json").read_text(encoding="utf-8"))["steps"] == 3
    path.write_bytes(path.read_bytes()[:-5])        # killed in the midst of a line
    store.append([step(run_id, 4), checkpoint(run_id, 4)])
    assert steps_in_file() == [1, 2, 3, 4]
    path.write_text("edited by hand\n")
    store.append([step(run_id, 5), checkpoint(run_id, 5)])
    assert steps_in_file() == [1, 2, 3, 4, 5]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [StepRecord(**json.loads(line)) for line in lines] == store.metrics(run_id)


def test_going_on_voids_everything_later_than_the_checkpoint(store):
    run_id = store.create(TrainConfig())
    look = EvalRecord(run_id, 4, "validation", 0.5, 0.75, 0.7, 80)
    for number in range(1, 9):
        store.append([step(run_id, number), Snapshot(run_id, number, PROMPT + number)])
        store.append([replace(look, step=number), *([checkpoint(run_id, number)] if number % 2 == 0 else [])])
    store.append([replace(look, split="test"), EndRecord(run_id, "stopped", "", {"steps": 8})])
    store.append([ResumeRecord(run_id, 4), step(run_id, 5, loss=0.25)])
    assert [record.step for record in store.metrics(run_id)] == [1, 2, 3, 4, 5]
    assert store.metrics(run_id)[-1].loss == 0.25
    assert [record.step for record in store.evals(run_id)] == [1, 2, 3, 4]
    assert {record.split for record in store.evals(run_id)} == {"validation"}
    assert store.snapshots(run_id)[0].tolist() == [1, 2, 3, 4]
    assert store.checkpoints(run_id) == [2, 4]
    assert (store.run(run_id).step, store.run(run_id).result) == (5, {})
    store.append([checkpoint(run_id, 5)])
    lines = (store.folder(run_id) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_beginning_anew_voids_everything_but_where_a_fork_begins(store):
    run_id = store.create(TrainConfig())
    store.append([checkpoint(run_id, 0), step(run_id, 1), Snapshot(run_id, 1, PROMPT), checkpoint(run_id, 1)])
    store.append([StartRecord(run_id, {})])
    assert store.metrics(run_id) == []
    assert store.snapshots(run_id)[0].tolist() == []
    assert store.checkpoints(run_id) == [0]


# ------------------------------------------------------------------- state


@pytest.mark.parametrize("status", ENDED)
def test_ended_run_is_queued_again_for_one_of_many(store, status):
    run_id = store.create(TrainConfig(), status="running")
    store.ask_to_stop(run_id)
    store.append([EndRecord(run_id, status, "why", {"a": 1})])
    store.requeue(run_id, owner="me")
    info = store.run(run_id)
    assert (info.status, info.reason, info.result) == ("queued", "", {"a": 1})
    assert store.asked_to_stop([run_id]) == []
    with pytest.raises(UserError, match="is queued already"):
        store.requeue(run_id, owner="other")
    assert store.claim([run_id], owner="me")


def test_settings_change_only_while_nobody_works_on_the_run(store):
    run_id = store.create(TrainConfig(), status="running")
    with pytest.raises(UserError, match="is running"):
        store.change_config(run_id, TrainConfig(steps=7))
    store.append([EndRecord(run_id, "stopped")])
    store.change_config(run_id, TrainConfig(steps=7))
    assert (store.config(run_id).steps, store.run(run_id).steps) == (7, 7)


def test_heartbeat_does_not_take_back_a_run_that_another_has_resumed(store, clock):
    run_id = store.create(TrainConfig())
    store.claim([run_id], owner="elsewhere:1:abcd")
    clock.now += 3_600      # that machine sleeps
    assert store.mark_interrupted() == [run_id]
    store.requeue(run_id, owner="here:1:efgh")
    assert store.heartbeat([run_id], owner="elsewhere:1:abcd") == [run_id]
    assert store.heartbeat([run_id], owner="here:1:efgh", status="queued") == []
    assert store.claim([run_id], owner="here:1:efgh")


def test_heartbeat_takes_back_a_mistaken_interruption_of_a_pause(store, clock):
    run_id = store.create(TrainConfig())
    store.claim([run_id], owner="elsewhere:1:abcd")
    store.ask_to_pause(run_id)
    store.append([PauseRecord(run_id, 3, True)])
    clock.now += 3_600
    assert store.mark_interrupted() == [run_id]
    store.heartbeat([run_id], owner="elsewhere:1:abcd")
    assert store.run(run_id).status == "paused"


def test_request_to_pause_reaches_another_store_and_can_be_taken_back(store):
    run_id = store.create(TrainConfig(), status="running")
    other = Store(store.root)
    other.ask_to_pause(run_id)
    assert store.asked_to_pause([run_id, "nope"]) == [run_id]
    store.append([PauseRecord(run_id, 3, True)])
    assert other.run(run_id).status == "paused"
    other.ask_to_pause(run_id, is_paused=False)
    assert store.asked_to_pause([run_id]) == []
    store.append([PauseRecord(run_id, 3, False)])
    assert other.run(run_id).status == "running"


@pytest.mark.parametrize("status", ["queued", *ENDED])
def test_only_a_run_at_work_can_be_paused(store, status):
    run_id = store.create(TrainConfig(), status=status)
    with pytest.raises(UserError, match=rf"is {status}; there is nothing to pause"):
        store.ask_to_pause(run_id)
    store.append([PauseRecord(run_id, 3, True)])
    assert store.run(run_id).status == status


def test_database_of_an_earlier_version_gets_what_it_lacks(store):
    run_id = store.create(TrainConfig(), status="running")
    with sqlite3.connect(store.root / "softprompt.db") as db:
        db.execute("ALTER TABLE runs DROP COLUMN is_asked_to_pause")
    again = Store(store.root)
    again.ask_to_pause(run_id)
    assert again.asked_to_pause([run_id]) == [run_id]


def test_runs_of_a_group_are_all_made_or_none(store, monkeypatch):
    made = store.create_group([TrainConfig(seed=seed) for seed in range(3)])
    assert [info.run_id for info in store.group(store.run(made[0]).group_id)] == made
    written = []

    def fails(path, value):
        written.append(path)
        if len(written) == 3:
            raise OSError("disk full")

    monkeypatch.setattr("softprompt_core.store.write_json", fails)
    with pytest.raises(OSError, match="disk full"):
        store.create_group([TrainConfig(), TrainConfig()])
    assert len(store.runs()) == 3
    assert len([path for path in store.root.iterdir() if path.is_dir()]) == 3


def test_queued_runs_are_claimed_once_and_together(store):
    one, two = store.create(TrainConfig()), store.create(TrainConfig())
    assert store.claim([one], owner="a")
    assert not store.claim([one, two], owner="b")
    assert store.run(two).status == "queued"
    assert store.run(one).status == "running"


def test_of_many_claimants_exactly_one_gets_the_run(store):
    run_id = store.create(TrainConfig())
    answers = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(store.claim([run_id], owner=str(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]


def test_request_to_stop_reaches_another_store_on_the_same_folder(store):
    run_id = store.create(TrainConfig(), status="running")
    other = Store(store.root)
    other.ask_to_stop(run_id)
    assert store.asked_to_stop([run_id, "nope"]) == [run_id]


def test_ended_run_cannot_be_stopped(store):
    run_id = store.create(TrainConfig())
    store.append([EndRecord(run_id, "done")])
    with pytest.raises(UserError, match=r"ended already \(done\)"):
        store.ask_to_stop(run_id)


def test_run_whose_process_is_gone_is_marked_interrupted_with_what_it_had(store):
    run_id = store.create(TrainConfig())
    store.claim([run_id], owner=gone_owner())
    store.append([step(run_id, 1)])
    assert store.mark_interrupted() == [run_id]
    info = store.run(run_id)
    assert (info.status, info.step) == ("interrupted", 1)
    assert info.reason
    assert store.mark_interrupted() == []


def test_run_of_another_machine_is_interrupted_only_when_its_lease_is_over(store, clock):
    run_id = store.create(TrainConfig())
    store.claim([run_id], owner="elsewhere:1:abcd")
    clock.now += LEASE_SECONDS - 1
    assert store.mark_interrupted() == []
    store.heartbeat([run_id], owner="elsewhere:1:abcd")
    clock.now += LEASE_SECONDS - 1
    assert store.mark_interrupted() == []
    clock.now += 2
    assert store.mark_interrupted() == [run_id]


def test_run_of_a_living_process_is_left_alone(store):
    run_id = store.create(TrainConfig())
    store.claim([run_id], owner=f"{os.uname().nodename}:{os.getpid()}:abcd")
    assert store.mark_interrupted() == []


def test_a_heartbeat_takes_back_a_mistaken_interruption(store, clock):
    queued, running = store.create(TrainConfig()), store.create(TrainConfig())
    store.claim([running], owner="elsewhere:1:abcd")
    clock.now += 3_600      # the machine slept
    assert set(store.mark_interrupted()) == {queued, running}
    store.heartbeat([queued], owner="elsewhere:1:abcd", status="queued")
    store.heartbeat([running], owner="elsewhere:1:abcd")
    assert (store.run(queued).status, store.run(running).status) == ("queued", "running")
    assert store.run(running).reason == ""
    store.append([EndRecord(running, "done")])
    store.heartbeat([running], owner="elsewhere:1:abcd")
    assert store.run(running).status == "done"


def test_runs_known_to_be_at_work_are_never_taken_for_interrupted(store, clock):
    run_id = store.create(TrainConfig())
    clock.now += 3_600
    assert store.mark_interrupted(leave={run_id}) == []


def test_a_loss_that_is_no_number_is_no_point_of_the_curve(store):
    run_id = store.create(TrainConfig())
    store.append([step(run_id, 1), step(run_id, 2, loss=float("nan"))])
    assert [record.step for record in store.metrics(run_id)] == [1]
    assert store.run(run_id).step == 2


# ------------------------------------------------------------ many at once


def test_reader_in_another_thread_sees_only_whole_batches(store):
    run_id = store.create(TrainConfig())
    counts: list[int] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            counts.append(len(store.metrics(run_id)))

    thread = threading.Thread(target=read)
    thread.start()
    for batch in range(20):
        store.append(step(run_id, batch * 10 + n) for n in range(1, 11))
    is_over.set()
    thread.join()
    assert all(count % 10 == 0 for count in counts)
    assert counts == sorted(counts)
    assert len(store.metrics(run_id)) == 200


def test_two_processes_write_to_one_folder(store):
    run_id = store.create(TrainConfig())
    code = (
        "import sys; from pathlib import Path; from softprompt_core.store import Store;"
        "from softprompt_core.config import TrainConfig; s = Store(Path(sys.argv[1]));"
        "[s.create(TrainConfig(seed=i)) for i in range(20)]"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(store.root)])
    for number in range(1, 101):
        store.append([step(run_id, number)])
    assert process.wait() == 0
    assert len(store.runs()) == 21
    assert len(store.metrics(run_id)) == 100


def test_reopened_folder_holds_everything(store):
    run_id = store.create(TrainConfig(name="kept"))
    store.append([step(run_id, 1), Snapshot(run_id, 1, PROMPT, kind="selected"), EndRecord(run_id, "done")])
    again = Store(store.root)
    assert again.run(run_id) == store.run(run_id)
    assert again.metrics(run_id) == [step(run_id, 1)]
    assert np.array_equal(again.prompt(run_id), PROMPT)


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--runs-dir"):
        Store(tmp_path / "file")


def test_database_that_is_none_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "softprompt.db"
    path.write_bytes(b"this is my shopping list, not a database" * 30)
    before = path.read_bytes()
    with pytest.raises(UserError, match="not a database"):
        Store(tmp_path)
    assert path.read_bytes() == before


def test_nothing_is_pickled(trained):
    for path in trained.runs_dir.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80"), path
            assert path.suffix not in (".pt", ".bin", ".pkl")
