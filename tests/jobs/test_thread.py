from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from softprompt_core.config import CompareConfig, TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.jobs import thread
from softprompt_core.jobs.thread import ThreadRunner
from softprompt_core.models import choose_device
from softprompt_core.records import ENDED, EndRecord, Snapshot, StepRecord
from softprompt_core.store import Store

QUICK = TrainConfig(steps=5, virtual_tokens=4, batch_size=4, eval_every=5)
LONG = TrainConfig(steps=100_000, virtual_tokens=4, batch_size=4, eval_every=100_000)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def runner(store):
    runner = ThreadRunner(store)
    yield runner
    runner.close()


def wait_for(claim, seconds=120.0):
    """Returns when the claim holds; fails after a generous while, so that a hang is a failure and not a wait."""
    until = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def has_ended(store, run_id):
    return store.run(run_id).status in ENDED


def test_submitted_run_reaches_the_store_and_ends(store, runner):
    (run_id,) = runner.submit([QUICK])
    wait_for(lambda: has_ended(store, run_id))
    info = store.run(run_id)
    assert (info.status, info.step) == ("done", 5)
    assert [m.step for m in store.metrics(run_id)] == [1, 2, 3, 4, 5]
    assert store.prompt(run_id).shape == (4, 256)
    assert info.result["eval_accuracy"] is not None
    assert store.facts(run_id)["labels"] == ["complaint", "no complaint"]


def test_stop_keeps_every_step_and_a_loadable_prompt(store, runner):
    (run_id,) = runner.submit([LONG])
    wait_for(lambda: store.run(run_id).step >= 3)
    assert runner.stop(run_id)
    wait_for(lambda: has_ended(store, run_id))
    info = store.run(run_id)
    assert info.status == "stopped"
    assert [m.step for m in store.metrics(run_id)] == list(range(1, info.step + 1))
    assert store.prompt(run_id).shape == (4, 256)


def test_second_job_waits_its_turn_and_can_be_stopped_while_queued(store, runner):
    (first,) = runner.submit([LONG])
    wait_for(lambda: store.run(first).step >= 1)
    (second,) = runner.submit([QUICK])
    assert runner.queue() == [second]
    assert store.run(second).status == "queued"
    assert runner.stop(second)
    assert store.run(second).status == "stopped"
    runner.stop(first)
    wait_for(lambda: has_ended(store, first))
    assert store.metrics(second) == []


def test_another_process_can_ask_a_run_to_stop(store, runner):
    (run_id,) = runner.submit([LONG])
    wait_for(lambda: store.run(run_id).step >= 1)
    Store(store.root).ask_to_stop(run_id)
    wait_for(lambda: has_ended(store, run_id))
    assert store.run(run_id).status == "stopped"


def test_a_run_of_another_runner_is_asked_to_stop_and_an_ended_one_is_not(store, runner):
    other = ThreadRunner(store)
    (run_id,) = other.submit([LONG])
    wait_for(lambda: store.run(run_id).step >= 1)
    assert runner.stop(run_id)
    wait_for(lambda: has_ended(store, run_id))
    assert store.run(run_id).status == "stopped"
    assert not runner.stop(run_id)
    other.close()


def test_comparison_trains_as_one_group(store, runner):
    run_ids = runner.submit(CompareConfig(base=QUICK, inits=("random", "text")).arms())
    wait_for(lambda: all(has_ended(store, i) for i in run_ids))
    groups = {store.run(i).group_id for i in run_ids}
    assert len(groups) == 1
    assert [i.run_id for i in store.group(groups.pop())] == run_ids
    assert {store.run(i).status for i in run_ids} == {"done"}


def test_wrong_settings_fail_the_run_in_one_sentence_and_leave_the_runner_alive(store, runner):
    (bad,) = runner.submit([QUICK.with_changes(data="no-such-data")])
    wait_for(lambda: has_ended(store, bad))
    assert store.run(bad).status == "failed"
    assert "no-such-data" in store.run(bad).reason
    (good,) = runner.submit([QUICK])
    wait_for(lambda: has_ended(store, good))
    assert store.run(good).status == "done"


def test_closing_ends_what_runs_and_keeps_its_prompt(store):
    runner = ThreadRunner(store)
    (run_id,) = runner.submit([LONG])
    wait_for(lambda: store.run(run_id).step >= 2)
    runner.close()
    assert store.run(run_id).status == "stopped"
    assert store.has_prompt(run_id)


def test_auto_and_the_device_it_means_share_one_queue(store, runner):
    device = str(choose_device("auto"))
    (first,) = runner.submit([LONG])
    wait_for(lambda: store.run(first).step >= 1)
    (second,) = runner.submit([QUICK.with_changes(device=device)])
    assert runner.queue() == [second]
    runner.stop(first)
    wait_for(lambda: has_ended(store, second))


def test_runs_of_a_process_that_has_gone_are_noticed_while_the_runner_lives(store, runner):
    lost = store.create(QUICK)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    store.claim([lost], owner=f"{os.uname().nodename}:{process.pid}:abcd")
    wait_for(lambda: store.run(lost).status == "interrupted", seconds=20)


def test_job_that_cannot_be_started_fails_with_a_reason(store, runner, monkeypatch):
    def refuse(run_ids, *, owner):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(store, "claim", refuse)
    (run_id,) = runner.submit([QUICK])
    wait_for(lambda: has_ended(store, run_id), seconds=20)
    assert store.run(run_id).status == "failed"
    assert "OperationalError" in store.run(run_id).reason


def test_a_fault_leaves_alone_what_waits_again_or_is_at_work_elsewhere(store, runner, monkeypatch):
    def fault(store, runs, control, *, owner):
        lost, again = runs
        for run_id, other in ((lost, "elsewhere:1:abcd"), (again, owner)):
            store.set_status(run_id, "stopped")
            store.requeue(run_id, owner=other)
        control.lose(lost)
        raise RuntimeError

    monkeypatch.setattr(thread, "execute", fault)
    run_ids = runner.submit(CompareConfig(base=QUICK, inits=("random", "text")).arms())
    wait_for(lambda: not runner._working and not runner.queue())
    assert [store.run(run_id).status for run_id in run_ids] == ["queued", "queued"]


def paused_at(store, run_id):
    wait_for(lambda: store.run(run_id).status == "paused")
    return store.run(run_id).step


def test_a_paused_run_is_held_while_the_other_of_its_pass_goes_on(store, runner):
    held, going = runner.submit(CompareConfig(base=LONG, inits=("random", "text")).arms())
    wait_for(lambda: store.run(going).step >= 1)
    runner.pause(held)
    step = paused_at(store, held)
    assert store.checkpoints(held) == [step]        # a power cut during a long pause costs nothing
    wait_for(lambda: store.run(going).step >= step + 3)
    assert (store.run(held).status, store.run(held).step) == ("paused", step)
    assert len(store.metrics(held)) == step
    runner.unpause(held)
    wait_for(lambda: store.run(held).step > step)
    assert store.run(held).status == "running"
    said = [record.text for _, record in store.logs(held)]
    assert said.index(f"paused after step {step}") < said.index(f"goes on after step {step}")


def test_when_all_are_paused_nothing_is_computed_and_a_stop_frees_only_its_run(store, runner):
    first, second = runner.submit(CompareConfig(base=LONG, inits=("random", "text")).arms())
    wait_for(lambda: store.run(second).step >= 1)
    runner.pause(first)
    Store(store.root).ask_to_pause(second)          # as another process would
    steps = paused_at(store, first), paused_at(store, second)
    begun = time.process_time()
    time.sleep(2)
    assert time.process_time() - begun < 0.5
    assert runner.stop(first)
    wait_for(lambda: has_ended(store, first))
    assert (store.run(first).status, store.has_prompt(first)) == ("stopped", True)
    assert "goes on" not in " ".join(record.text for _, record in store.logs(first))
    time.sleep(1.5)
    assert (store.run(second).status, store.run(second).step) == ("paused", steps[1])
    Store(store.root).ask_to_pause(second, is_paused=False)
    wait_for(lambda: store.run(second).step > steps[1])


def test_only_a_run_at_work_can_be_paused(store, runner):
    run_id = store.create(QUICK, status="done")
    for act in (runner.pause, runner.unpause):
        with pytest.raises(UserError, match="is done; there is nothing to"):
            act(run_id)


def test_a_stopped_run_goes_on_where_it_was(store, runner, mail_csv):
    (run_id,) = runner.submit([LONG.with_changes(data=str(mail_csv), steps=40)])
    wait_for(lambda: store.run(run_id).step >= 3)
    runner.stop(run_id)
    wait_for(lambda: has_ended(store, run_id))
    at = store.run(run_id).step
    assert (store.run(run_id).status, store.checkpoint(run_id).step) == ("stopped", at)
    runner.resume(run_id)
    with pytest.raises(UserError, match="already"):
        runner.resume(run_id)
    wait_for(lambda: store.run(run_id).step > at)
    wait_for(lambda: has_ended(store, run_id))
    assert store.run(run_id).status == "done"
    assert [m.step for m in store.metrics(run_id)] == list(range(1, 41))


def test_a_resume_that_is_cancelled_in_the_queue_costs_nothing(store, runner):
    run_id = store.create(QUICK, status="running")
    steps = [StepRecord(run_id, n, 0.1, 1.0, 0.1, 1.0, 10, 0.1) for n in range(1, 6)]
    prompt = Snapshot(run_id, 5, np.ones((4, 256), np.float32), kind="selected")
    store.append([*steps, prompt, EndRecord(run_id, "done", "", {"eval_accuracy": 0.5})])
    before = store.run(run_id)
    (other,) = runner.submit([LONG])
    wait_for(lambda: store.run(other).step >= 1)
    store.change_config(run_id, QUICK.with_changes(steps=10))
    runner.resume(run_id)
    assert runner.queue() == [run_id]
    assert runner.stop(run_id)
    after = store.run(run_id)
    assert (after.status, after.step, after.result) == ("stopped", 5, before.result)
    assert len(store.metrics(run_id)) == 5
    assert store.prompt(run_id).shape == (4, 256)


def test_a_run_taken_over_by_another_process_is_left_to_it(store, runner):
    (run_id,) = runner.submit([LONG])
    wait_for(lambda: store.run(run_id).step >= 2)
    store.set_status(run_id, "interrupted")         # this machine has slept
    store.requeue(run_id, owner="elsewhere:1:abcd")
    wait_for(lambda: not runner._working)
    info = store.run(run_id)
    assert info.status == "queued"
    assert "asked to stop" not in [record.text for _, record in store.logs(run_id)]
