"""Going on: a run that is stopped or killed at any step and resumed equals one that was never stopped."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softprompt_core import operations, training
from softprompt_core.cli import main
from softprompt_core.config import TrainConfig
from softprompt_core.control import Control
from softprompt_core.errors import UserError
from softprompt_core.evaluation import Cancelled
from softprompt_core.jobs import execute as execute_module
from softprompt_core.jobs.execute import execute
from softprompt_core.records import (
    Checkpoint,
    EndRecord,
    EvalRecord,
    LogRecord,
    ResumeRecord,
    Snapshot,
    StartRecord,
    StepRecord,
    Weights,
)
from softprompt_core.running import fork_of
from softprompt_core.store import Store
from softprompt_core.training import train

STEPS = 12
SETTINGS = {
    "steps": STEPS, "batch_size": 5, "accumulation": 2, "virtual_tokens": 4, "eval_every": 3, "checkpoint_every": 4,
    "weight_decay": 0.1, "schedule": "cosine", "lr": 0.3,
}
"""44 rows to train on and 10 a step: an epoch is five steps, the last of four rows, which are one part of two."""


@pytest.fixture(scope="module")
def settings(mail_csv):
    return TrainConfig(data=str(mail_csv), **SETTINGS)


@pytest.fixture(scope="module")
def whole(settings):
    """The records of a run that was never stopped."""
    return list(train({"a": settings}))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def steps(records):
    """Everything about each step but its time, to the last bit."""
    return [replace(r, run_id="", seconds=0.0) for r in records if isinstance(r, StepRecord)]


def looks(records):
    return [replace(r, run_id="") for r in records if isinstance(r, EvalRecord)]


def selected(records):
    return next(r for r in records if isinstance(r, Snapshot) and r.kind == "selected")


def ending(records):
    return next(r for r in records if isinstance(r, EndRecord))


def logs(records):
    return [r.text for r in records if isinstance(r, LogRecord)]


def figures(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "tokens_per_second")}


def stopped_after(settings, step):
    """The records of a run that is stopped after a step; 0: before the first."""
    control, records = Control(), []
    if step == 0:
        control.stop("a")
    for record in train({"a": settings}, control=control):
        records.append(record)
        if isinstance(record, StepRecord) and record.step == step:
            control.stop("a")
    return records


def through_the_store(store, records, config):
    """The checkpoint that records end with, written and read again."""
    run_id = store.create(config)
    store.append(replace(record, run_id=run_id) for record in records)
    return replace(store.checkpoint(run_id), run_id="a")


def resumed(settings, saved):
    return list(train({"a": settings}, resume={"a": saved}))


# --------------------------------------------------------------- to the bit


@pytest.mark.parametrize("step", [0, 1, 4, 5, 7, 11])
def test_a_run_stopped_at_any_step_goes_on_as_if_it_had_not_been(store, settings, whole, step):
    before = stopped_after(settings, step)
    saved = through_the_store(store, before, settings)
    assert saved.step == step
    after = resumed(settings, saved)
    assert steps(before) + steps(after) == steps(whole)
    assert looks(before) + looks(after) == looks(whole)
    assert selected(after).step == selected(whole).step
    assert selected(after).prompt.tobytes() == selected(whole).prompt.tobytes()
    assert figures(ending(after).result) == figures(ending(whole).result)


@pytest.mark.parametrize(
    ("method", "optimizer"), [("prompt", "adafactor"), ("p_tuning", "adamw"), ("prefix", "adamw"), ("lora", "adamw")]
)
def test_other_methods_and_optimisers_go_on_as_well(store, settings, method, optimizer):
    config = TrainConfig(**{**settings.model_dump(), "method": method, "optimizer": optimizer, "lr": 0.01, "steps": 6})
    alone, before = list(train({"a": config})), stopped_after(config, 4)
    after = resumed(config, through_the_store(store, before, config))
    assert steps(before) + steps(after) == steps(alone)
    assert figures(ending(after).result) == figures(ending(alone).result)
    if method != "prompt":
        (found,), (expected,) = ([r for r in records if isinstance(r, Weights)] for records in (after, alone))
        assert found.step == expected.step
        assert {k: v.tobytes() for k, v in found.tensors.items()} == {
            k: v.tobytes() for k, v in expected.tensors.items()
        }


def test_a_look_that_a_stop_cut_short_is_made_up_for(store, settings, whole, monkeypatch):
    evaluate, control = training.evaluate, Control()

    def stop_within(*args, **named):
        control.stop("a")
        raise Cancelled

    monkeypatch.setattr(training, "evaluate", stop_within)
    before = list(train({"a": settings}, control=control))
    monkeypatch.setattr(training, "evaluate", evaluate)
    after = resumed(settings, through_the_store(store, before, settings))
    assert steps(before)[-1].step == 3
    assert looks(before) + looks(after) == looks(whole)
    assert figures(ending(after).result) == figures(ending(whole).result)


def test_a_run_out_of_patience_ends_where_it_would_have(store, settings, monkeypatch):
    evaluate, worse = training.evaluate, itertools.count(1)
    monkeypatch.setattr(training, "evaluate", lambda *a, **named: replace(evaluate(*a, **named), loss=next(worse)))
    impatient = settings.with_changes(patience=1, steps=30)
    alone = list(train({"a": impatient}))
    last = steps(alone)[-1].step
    assert last == 6
    saved = next(r for r in reversed(alone) if isinstance(r, Checkpoint))
    assert saved.step == last
    again = resumed(impatient, through_the_store(store, [saved], impatient))
    assert steps(again) == []
    assert ending(again).reason == ending(alone).reason
    assert figures(ending(again).result) == figures(ending(alone).result)
    more = resumed(impatient.with_changes(steps=40), saved)     # asked for more, it is patient again
    assert steps(more)[-1].step > last
    assert any("learning rate is that of a run of this length" in text for text in logs(more))


def test_time_is_that_of_all_parts_without_pauses(settings):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    control, saved, paused = Control(), [], []
    for record in train({"a": settings.with_changes(steps=4, checkpoint_every=2)}, control=control, clock=clock):
        if isinstance(record, StepRecord) and record.step == 2 and not paused:
            control.pause(True, run_id="a")
        if isinstance(record, Checkpoint):
            saved.append(record)
            if control.is_paused("a") and len(saved) == 2:
                paused.append(now[0])
                now[0] += 1_000.0
                control.pause(False, run_id="a")
    assert paused
    assert saved[-1].facts["seconds"] < 900
    (*_, last) = [r for r in train({"a": settings.with_changes(steps=6)}, resume={"a": saved[-1]}, clock=clock)
                  if isinstance(r, StepRecord)]
    assert last.seconds > saved[-1].facts["seconds"]


def test_a_checkpoint_of_other_data_is_refused_and_says_what_to_do(settings, whole, tmp_path):
    other = tmp_path / "mail.csv"
    other.write_text(Path(settings.data).read_text(encoding="utf-8").replace("parcel 3 ", "letter 3 "))
    saved = next(r for r in whole if isinstance(r, Checkpoint))
    with pytest.raises(UserError, match=r"The data of run 'a' is no longer.*fork"):
        resumed(settings.with_changes(data=str(other)), saved)


def test_a_checkpoint_of_other_shapes_is_refused(settings, whole):
    saved = next(r for r in whole if isinstance(r, Checkpoint))
    with pytest.raises(UserError, match="does not fit the run's settings"):
        resumed(settings.with_changes(virtual_tokens=5), saved)


# -------------------------------------------------------------------- forks


def test_a_fork_begins_where_the_other_was_and_says_so(settings, whole):
    saved = next(r for r in whole if isinstance(r, Checkpoint) and r.step == 8)
    records = list(train({"b": settings.with_changes(lr=0.01, steps=3)}, resume={"b": fork_of(saved, "b")}))
    start = next(r for r in records if isinstance(r, Snapshot))
    assert np.array_equal(start.prompt, saved.tensors["trained.prompt_embeddings"])
    assert [record.step for record in steps(records)] == [1, 2, 3]
    facts = next(r for r in records if isinstance(r, StartRecord)).facts
    assert facts["parent"] == {"run_id": "a", "step": 8}
    assert any("forked from run a after step 8" in text for text in logs(records))


def test_a_fork_may_keep_the_optimisers_state(settings, whole):
    saved = next(r for r in whole if isinstance(r, Checkpoint) and r.step == 8)
    config = settings.with_changes(steps=3)
    with_it, without = (
        steps(train({"b": config}, resume={"b": fork_of(saved, "b", keeps_optimizer=keeps)})) for keeps in (True, False)
    )
    assert with_it[0].loss == without[0].loss
    assert with_it[1].loss != without[1].loss


def test_a_run_that_began_at_another_goes_on_when_that_is_gone(settings, whole):
    config = settings.with_changes(init="from_run", init_run="gone")
    start = selected(whole).prompt
    alone = list(train({"a": config}, starts={"a": start}))
    saved = next(r for r in alone if isinstance(r, Checkpoint) and r.step == 4)
    assert steps(resumed(config, saved)) == steps(alone)[4:]


# ------------------------------------------------------------ through a store


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(store, settings, whole):
    run_id = store.create(settings)
    store.append(replace(r, run_id=run_id) for r in stopped_after(settings, 9))
    path = store.folder(run_id) / "checkpoints" / "step-00000009.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    store.requeue(run_id, owner="me")
    store.claim([run_id], owner="me")
    execute(store, {run_id: settings}, Control(), owner="me")
    said = [record.text for _, record in store.logs(run_id)]
    assert "the checkpoint of step 9 is damaged and was passed over" in said
    assert "resumed after step 8" in said
    assert steps(store.metrics(run_id)) == steps(whole)
    assert sorted(looks(store.evals(run_id)), key=str) == sorted(looks(whole), key=str)
    assert store.prompt(run_id).tobytes() == selected(whole).prompt.tobytes()


def test_a_run_without_a_checkpoint_starts_anew_and_says_so(store, settings, whole):
    run_id = store.create(settings)
    store.append(replace(r, run_id=run_id) for r in whole if isinstance(r, StepRecord) and r.step < 3)
    store.claim([run_id], owner="me")
    execute(store, {run_id: settings}, Control(), owner="me")
    assert any("starts anew" in record.text for _, record in store.logs(run_id))
    assert steps(store.metrics(run_id)) == steps(whole)


def test_a_killed_run_is_resumed_without_a_gap_or_a_difference(store, settings, whole):
    """kill -9 at a random step, twice, of a real process; then to the end."""
    config = settings.with_changes(checkpoint_every=2)
    run_id = store.create(config)
    drawn, reached = random.Random(time.time_ns()), 0
    for _ in range(2):
        wanted = reached + drawn.randint(1, 4)
        process = worker(store, run_id)
        while store.run(run_id).step < wanted and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert store.mark_interrupted() == [run_id]
        info = store.run(run_id)
        assert (info.status, info.step) == ("interrupted", len(store.metrics(run_id)))
        reached = info.step
        kept = store.checkpoint(run_id)
        assert kept is None or kept.step >= reached - 2
        metrics = store.folder(run_id) / "metrics.jsonl"       # written after the checkpoint, so perhaps not yet
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
        store.requeue(run_id, owner="me")
    store.claim([run_id], owner="me")
    execute(store, {run_id: config}, Control(), owner="me")
    assert store.run(run_id).status == "done"
    assert steps(store.metrics(run_id)) == steps(whole)
    assert figures(store.run(run_id).result) == figures(ending(whole).result)
    assert store.prompt(run_id).tobytes() == selected(whole).prompt.tobytes()
    trajectory, _ = store.snapshots(run_id)
    assert trajectory.tolist() == list(range(STEPS + 1))


def worker(store, run_id):
    """A process that trains a queued run, slowly enough to be caught between two steps."""
    code = (
        "import sys, time; from pathlib import Path; from softprompt_core.environment import prepare_environment;"
        "prepare_environment(); from softprompt_core.store import Store; from softprompt_core.control import Control;"
        "from softprompt_core.jobs.execute import execute, new_owner;"
        "store, run_id, owner = Store(Path(sys.argv[1])), sys.argv[2], new_owner();"
        "assert store.claim([run_id], owner=owner);"
        "execute(store, {run_id: store.config(run_id)}, Control(), owner=owner,"
        " on_record=lambda record: time.sleep(0.1 * (type(record).__name__ == 'StepRecord')))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(store.root), run_id])


# --------------------------------------------------------------- operations


def ended(store, config, status="done", step=STEPS, checkpoint=True):
    run_id = store.create(config)
    tensors = {"trained.prompt_embeddings": np.ones((config.virtual_tokens, 256), np.float32)}
    store.append([StepRecord(run_id, step, 0.1, 1.0, 0.1, 1.0, 10, 0.1)])
    if checkpoint:
        store.append([Checkpoint(run_id, step, tensors, {"steps": config.steps})])
    store.append([EndRecord(run_id, status, "", {"eval_accuracy": 0.5})])
    return run_id


def test_a_done_run_needs_more_steps_to_go_on(store, settings):
    run_id = ended(store, settings)
    with pytest.raises(UserError, match=r"is done after 12 of 12 steps.*--steps 24"):
        operations.prepare_resume(store, run_id)
    with pytest.raises(UserError, match=r"steps: 12 was given, but run .* has reached 12"):
        operations.prepare_resume(store, run_id, steps=12)
    assert operations.prepare_resume(store, run_id, steps=20).steps == 20
    info = store.run(run_id)
    assert (store.config(run_id).steps, info.steps, info.result) == (20, 20, {"eval_accuracy": 0.5})
    assert json.loads((store.folder(run_id) / "config.json").read_text())["steps"] == 20


def test_a_stopped_run_may_get_fewer_steps_than_it_was_to_have(store, settings):
    run_id = ended(store, settings, status="stopped", step=5)
    assert operations.prepare_resume(store, run_id).steps == STEPS
    assert operations.prepare_resume(store, run_id, steps=6).steps == 6
    with pytest.raises(UserError, match="has reached 5"):
        operations.prepare_resume(store, run_id, steps=5)


@pytest.mark.parametrize("status", ["queued", "running", "paused"])
def test_a_run_at_work_cannot_be_resumed(store, settings, status):
    run_id = store.create(settings, status=status)
    with pytest.raises(UserError, match=f"is {status} already"):
        operations.prepare_resume(store, run_id)


def test_an_imported_prompt_cannot_be_resumed_but_be_begun_at(store, settings):
    run_id = ended(store, settings)
    store.append([StartRecord(run_id, {"imported_from": "x"}), EndRecord(run_id, "done")])
    with pytest.raises(UserError, match=r"was imported.*--init from_run"):
        operations.prepare_resume(store, run_id, steps=20)


def test_a_fork_is_a_run_that_waits_to_be_resumed(store, settings):
    run_id = ended(store, settings)
    new = operations.fork(store, run_id, changes={"lr": "0.01", "seed": "4"})
    config = store.config(new)
    assert (config.lr, config.seed, config.init, config.init_run) == (0.01, 4, "from_run", run_id)
    assert store.checkpoint(new).facts["parent"] == {"run_id": run_id, "step": STEPS}
    assert store.run(new).name.endswith("· from step 12")
    assert new in store.logs(run_id)[-1][1].text
    operations.prepare_resume(store, new)


@pytest.mark.parametrize(
    ("step", "changes", "keeps", "words"),
    [
        (7, {}, False, r"no checkpoint of step 7\. Those it has: 12"),
        (None, {"virtual_tokens": 9}, False, r"A fork keeps the virtual tokens"),
        (None, {"lr": "fast"}, False, r"learning rate: 'fast' was given"),
        (None, {"optimizer": "adafactor"}, True, r"The state of adamw means nothing to adafactor"),
        (None, {"data": "nowhere"}, False, r"nowhere"),
    ],
)
def test_a_fork_that_cannot_be_is_refused_and_leaves_no_run(store, settings, step, changes, keeps, words):
    run_id = ended(store, settings)
    with pytest.raises(UserError, match=words):
        operations.fork(store, run_id, step=step, changes=changes, keeps_optimizer=keeps)
    assert len(store.runs()) == 1


def test_a_run_without_a_checkpoint_cannot_be_forked_but_be_begun_at(store, settings):
    run_id = ended(store, settings, checkpoint=False)
    with pytest.raises(UserError, match=r"no checkpoint to fork.*--init from_run"):
        operations.fork(store, run_id)


def test_a_warm_start_takes_the_length_of_the_prompt_and_says_what_does_not_fit(store, settings):
    run_id = store.create(settings)
    prompt = np.ones((7, 256), np.float32)
    store.append([Snapshot(run_id, 3, prompt, kind="selected"), EndRecord(run_id, "done")])
    values = operations.with_start(store, {"init": "from_run", "init_run": run_id})
    assert values["virtual_tokens"] == 7
    assert operations.with_start(store, {**values, "virtual_tokens": 3})["virtual_tokens"] == 3
    operations.check(TrainConfig(**values), store)
    with pytest.raises(UserError, match="is 7 × 256; this run has 3 virtual tokens"):
        operations.check(TrainConfig(**{**values, "virtual_tokens": 3}), store)
    with pytest.raises(UserError, match="no run 'nope'"):
        operations.check(TrainConfig(**{**values, "init_run": "nope"}), store)


def test_resume_record_comes_before_every_step(settings, whole):
    saved = next(r for r in whole if isinstance(r, Checkpoint))
    records = resumed(settings, saved)
    kinds = [type(r) for r in records]
    assert kinds.index(ResumeRecord) < kinds.index(StepRecord)
    assert StartRecord not in kinds


def test_a_resume_that_starts_slowly_is_not_lost_to_a_program_that_takes_it_for_dead(
    store, settings, monkeypatch, capsys
):
    run_id = ended(store, settings, status="stopped", step=5, checkpoint=False)
    claim = Store.claim

    def slow(self, run_ids, *, owner):
        other = Store(store.root, clock=lambda: time.time() + 60)       # to which imports took longer than a lease
        assert other.mark_interrupted() == [run_id]
        return claim(self, run_ids, owner=owner)

    monkeypatch.setattr(Store, "claim", slow)
    monkeypatch.setattr(execute_module, "HEARTBEAT_SECONDS", 0.01)
    arguments = ["resume", run_id, "--steps", "10", "--runs-dir", str(store.root), "--json"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert store.run(run_id).status == "done"
