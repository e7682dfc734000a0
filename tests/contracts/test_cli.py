"""The command line's contract: keys of the JSON documents, what goes to which stream, exit codes, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from softprompt_core import operations, training
from softprompt_core.config import METHOD_LR, TrainConfig
from softprompt_core.records import ENDED
from softprompt_core.store import Store

TRAIN = {
    "run_id", "status", "steps", "train_loss", "eval_loss", "eval_perplexity", "eval_accuracy", "eval_macro_f1",
    "baselines", "seconds", "tokens_per_second", "trainable_parameters", "layout", "dropped_rows", "cut_rows",
}
TRAIN_BESIDES = {
    "reason", "eval_accuracy_low", "eval_accuracy_high", "test_rows", "selected_step", "device", "dtype", "labels",
    "text_column", "label_column",
}
FIGURES = {"loss", "perplexity", "accuracy", "macro_f1", "rows"}
LISTED = {"run_id", "name", "status", "group_id", "created", "step", "steps", "reason", "config", "result"}
TRUST = {
    "score", "band", "limiting", "retention", "retention_low", "above_null", "stability", "echo",
    "retention_of_change", "sentence",
}
QUICK = ["--steps", "3", "--virtual-tokens", "4"]


def strict(text):
    """The one JSON document in a text; NaN and Infinity are no JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def documents(command, trained):
    """Runs a command on the shared run with --json and returns its document."""

    def documents(*arguments):
        outcome = command(*arguments, "--json", "--runs-dir", trained.runs_dir)
        assert outcome.code == 0, outcome.stderr
        assert outcome.stdout.count("\n") == 1
        return strict(outcome.stdout)

    return documents


# ------------------------------------------------------------------- train


def test_train_document_has_the_promised_keys(trained):
    found = strict(trained.outcome.stdout)
    assert set(found) == TRAIN | TRAIN_BESIDES
    assert set(found["baselines"]) == {"majority", "hand_written", "no_prompt"}
    assert set(found["baselines"]["majority"]) == {"label", "accuracy", "macro_f1"}
    assert set(found["baselines"]["hand_written"]) == {"text"} | FIGURES


def test_train_document_says_what_happened(trained):
    found = trained.outcome.document
    assert (found["status"], found["steps"], found["reason"]) == ("done", 12, "")
    assert found["eval_perplexity"] == pytest.approx(np.exp(found["eval_loss"]))
    assert found["trainable_parameters"] == 8 * 256
    assert found["eval_accuracy_low"] < found["eval_accuracy"] < found["eval_accuracy_high"]
    assert found["baselines"]["majority"]["accuracy"] == 0.5
    assert found["seconds"] > 0


def test_train_document_equals_what_the_store_keeps(trained):
    info = trained.store.run(trained.run_id)
    assert {**info.result, "run_id": info.run_id, "status": info.status, "reason": ""} == trained.outcome.document
    assert trained.store.metrics(trained.run_id)[-1].loss == trained.outcome.document["train_loss"]


def test_progress_goes_to_stderr(trained):
    said = trained.outcome.stderr
    assert "step 6: train loss" in said
    assert "step 12: train loss" in said
    assert said.splitlines()[-1] == f"{trained.run_id}: done"
    assert "Traceback" not in said
    assert "Warning" not in said


def test_same_command_gives_the_same_losses_to_the_last_digit(command, tmp_path, mail_csv):
    losses = []
    for _ in range(2):
        outcome = command("train", "--data", mail_csv, *QUICK, "--json", "--runs-dir", tmp_path)
        losses.append([r.loss for r in Store(tmp_path).metrics(outcome.document["run_id"])])
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


def test_flags_win_over_the_config_file(command, tmp_path, mail_csv):
    path = tmp_path / "settings.json"
    settings = {"data": str(mail_csv), "steps": 2, "virtual_tokens": 3, "lr": 0.5, "template": "Q: {text}\nA:"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    outcome = command("train", "--config", path, "--lr", 0.25, "--name", "mine", "--json", "--runs-dir", tmp_path)
    assert outcome.code == 0, outcome.stderr
    config = Store(tmp_path).config(outcome.document["run_id"])
    assert config == TrainConfig(**{**settings, "lr": 0.25, "name": "mine"})


def test_backslash_n_in_a_template_is_a_line_break_and_letters_stay(command, tmp_path, mail_csv):
    outcome = command(
        "train", "--data", mail_csv, "--steps", 1, "--virtual-tokens", 2, "--template", "Größe: {text}\\nLabel:",
        "--json", "--runs-dir", tmp_path,
    )
    assert Store(tmp_path).config(outcome.document["run_id"]).template == "Größe: {text}\nLabel:"


# ----------------------------------------------------------------- compare


@pytest.fixture(scope="module")
def compared(command, mail_csv, tmp_path_factory):
    """A comparison of two initialisations over two seeds: (runs folder, outcome)."""
    folder = tmp_path_factory.mktemp("compared")
    arguments = ["--data", mail_csv, "--init", "random,text", "--seeds", 2, *QUICK, "--json", "--runs-dir", folder]
    return folder, command("compare", *arguments)


def test_compare_document_has_the_promised_keys(compared):
    _, outcome = compared
    assert outcome.code == 0, outcome.stderr
    found = strict(outcome.stdout)
    assert set(found) == {"group_id", "runs", "summary", "baselines", "verdict"}
    for run in found["runs"]:
        assert set(run) == TRAIN | TRAIN_BESIDES | {"init", "method", "seed"}
    for entry in found["summary"]:
        figures = {f"{f}_{s}" for f in ("accuracy", "loss") for s in ("mean", "ci95_low", "ci95_high")}
        assert set(entry) == {"arm", "init", "method", "runs", "trainable_parameters"} | figures


def test_compare_trains_every_init_with_every_seed_as_one_group(compared):
    folder, outcome = compared
    found = outcome.document
    assert [(r["init"], r["seed"]) for r in found["runs"]] == [
        ("random", 0), ("random", 1), ("text", 0), ("text", 1),
    ]
    assert {r["status"] for r in found["runs"]} == {"done"}
    assert [i.run_id for i in Store(folder).group(found["group_id"])] == [r["run_id"] for r in found["runs"]]
    assert "95 % interval" in found["verdict"]


def test_compare_takes_methods_beside_initialisations(command, mail_csv, tmp_path):
    arguments = ["--data", mail_csv, "--method", "prompt, lora", "--init", "text", "--lr", 0.5, *QUICK]
    outcome = command("compare", *arguments, "--json", "--runs-dir", tmp_path)
    assert outcome.code == 0, outcome.stderr
    found = strict(outcome.stdout)
    assert [(e["arm"], e["init"], e["method"]) for e in found["summary"]] == [
        ("text", "text", "prompt"), ("LoRA", None, "lora"),
    ]
    assert [run["trainable_parameters"] for run in found["runs"]] == [4 * 256, 6 * 2 * 2 * 8 * 256]
    assert [Store(tmp_path).config(run["run_id"]).lr for run in found["runs"]] == [0.5, METHOD_LR["lora"]]
    assert "LoRA" in found["verdict"]


@pytest.mark.parametrize("methods", ["prompt,magic", "lora,lora", ","])
def test_compare_names_the_methods_there_are(command, mail_csv, tmp_path, methods):
    outcome = command("compare", "--data", mail_csv, "--method", methods, "--json", "--runs-dir", tmp_path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "methods" in outcome.stderr or "method:" in outcome.stderr
    assert "lora" in outcome.stderr


def test_train_takes_a_method_and_a_few_shot_baseline(command, mail_csv, tmp_path):
    arguments = ["--data", mail_csv, "--method", "lora", "--shots", 3, *QUICK, "--json", "--runs-dir", tmp_path]
    outcome = command("train", *arguments)
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["baselines"]["few_shot"]["shots"] == 3
    assert set(outcome.document["baselines"]["few_shot"]) == {"text", "shots"} | FIGURES
    assert "LoRA of rank 8 in q_proj, v_proj" in outcome.stderr


def test_run_of_a_comparison_equals_the_same_run_alone(compared, command, tmp_path, mail_csv):
    folder, outcome = compared
    arguments = ["--data", mail_csv, "--init", "random", "--seed", 1, *QUICK, "--json", "--runs-dir", tmp_path]
    alone = command("train", *arguments).document
    together = next(r for r in outcome.document["runs"] if (r["init"], r["seed"]) == ("random", 1))
    one, many = Store(tmp_path).metrics(alone["run_id"]), Store(folder).metrics(together["run_id"])
    assert [r.loss for r in one] == pytest.approx([r.loss for r in many], rel=1e-5)
    assert alone["eval_loss"] == pytest.approx(together["eval_loss"], rel=1e-4)


# ----------------------------------------------------------- other commands


def test_inspect_document_has_the_promised_keys(documents, trained):
    found = documents("inspect", trained.run_id, "--top", 3)
    assert set(found) == {"tokens", "projection", "trust", "readings"}
    assert [token["index"] for token in found["tokens"]] == list(range(8))
    for token in found["tokens"]:
        assert set(token) == {"index", "norm", "norm_percentile", "z", "echo", "neighbours"}
        assert [set(n) for n in token["neighbours"]] == [{"id", "token", "score"}] * 3
    assert {"explained_variance", "points"} <= set(found["projection"])
    assert len(found["projection"]["points"]) == 8
    assert set(found["trust"]) == TRUST


def test_what_was_not_computed_is_null(documents, trained):
    trust = documents("inspect", trained.run_id)["trust"]
    assert trust["score"] is None
    assert trust["retention"] is None
    assert set(documents("inspect", trained.run_id)["readings"].values()) == {None}


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("correction", ["none", "centred"])
def test_inspect_takes_every_metric_and_correction(documents, trained, metric, correction):
    found = documents("inspect", trained.run_id, "--metric", metric, "--correction", correction, "--top", 2)
    assert all(len(token["neighbours"]) == 2 for token in found["tokens"])


def test_readings_come_with_the_document_and_are_kept_and_the_report_is_one_page(command, trained, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(trained.runs_dir, runs)
    page = tmp_path / "report.html"
    made = command("inspect", trained.run_id, "--readings", "signature", "--report", page, "--json", "--runs-dir", runs)
    assert made.code == 0, made.stderr
    found = made.document["readings"]
    assert {name for name, reading in found.items() if reading} == {"signature"}
    again = command("inspect", trained.run_id, "--json", "--runs-dir", runs).document["readings"]
    assert again == found
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "What it makes the model say" in text


@pytest.mark.parametrize(("flags", "words"), [
    (["--readings", "sense"], "allowed are all, ladder, signature"),
    (["--readings", ","], "allowed are all or some of"),
    (["--report", "/nowhere/at/all.html"], "Name another file"),
])
def test_inspect_refuses_readings_that_do_not_exist_and_places_that_cannot_be_written(command, trained, flags, words):
    done = command("inspect", trained.run_id, *flags, "--runs-dir", trained.runs_dir)
    assert done.code == 2
    assert words in done.stderr


def test_eval_document_has_the_promised_keys_and_trainings_figures(documents, trained):
    found = documents("eval", trained.run_id)
    assert set(found) == FIGURES
    assert found["accuracy"] == trained.outcome.document["eval_accuracy"]


def test_eval_takes_other_data(documents, trained, tmp_path):
    path = tmp_path / "more.csv"
    path.write_text("text,label\nIt broke at once.,complaint\nWhen do you open?,no complaint\n", encoding="utf-8")
    assert documents("eval", trained.run_id, "--data", path)["rows"] == 2


def test_predict_gives_label_and_scores_of_each_text(documents, trained):
    rows = documents("predict", trained.run_id, "--text", "It broke.", "--text", "Open today?")
    assert [row["text"] for row in rows] == ["It broke.", "Open today?"]
    for row in rows:
        assert set(row) == {"text", "label", "scores", "probabilities"}
        assert set(row["scores"]) == {"complaint", "no complaint"}


def test_predict_reads_texts_from_any_table(documents, trained, tmp_path):
    files = {
        "rows.csv": "text,label\nIt broke.,\nOpen today?,\n",
        "texts.csv": "text\nIt broke.\nOpen today?\n",
        "rows.jsonl": '{"text": "It broke."}\n{"text": "Open today?"}\n',
        "lines.txt": "It broke.\n\nOpen today?\n",
    }
    found = []
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        found.append(documents("predict", trained.run_id, "--file", tmp_path / name))
    assert [row["text"] for row in found[0]] == ["It broke.", "Open today?"]
    assert all(rows == found[0] for rows in found)


def test_runs_list_and_show_have_the_promised_keys(documents, trained):
    (listed,) = documents("runs", "list")
    assert set(listed) == LISTED
    assert (listed["run_id"], listed["status"]) == (trained.run_id, "done")
    assert documents("runs", "show", trained.run_id) == [listed]


def test_empty_folder_lists_no_runs(command, tmp_path):
    outcome = command("runs", "list", "--json", "--runs-dir", tmp_path / "new")
    assert (outcome.code, outcome.document) == (0, [])
    assert "softprompt train" in command("runs", "list", "--runs-dir", tmp_path / "new").stdout


def test_pause_and_unpause_leave_word_and_give_the_run(command, tmp_path):
    store = Store(tmp_path)
    run_id = store.create(TrainConfig(), status="running")
    store.heartbeat([run_id], owner="elsewhere:1:abcd")
    (paused,) = command("runs", "pause", run_id, "--json", "--runs-dir", tmp_path).document
    assert set(paused) == LISTED
    assert store.asked_to_pause([run_id]) == [run_id]
    (unpaused,) = command("runs", "unpause", run_id, "--json", "--runs-dir", tmp_path).document
    assert set(unpaused) == LISTED
    assert store.asked_to_pause([run_id]) == []


def test_stop_and_delete_give_the_run_as_it_now_is(command, tmp_path):
    store = Store(tmp_path)
    run_id = store.create(TrainConfig(), status="running")
    (stopped,) = command("runs", "stop", run_id, "--json", "--runs-dir", tmp_path).document
    assert set(stopped) == LISTED
    assert store.asked_to_stop([run_id]) == [run_id]
    store.set_status(run_id, "stopped")
    (deleted,) = command("runs", "delete", run_id, "--json", "--runs-dir", tmp_path).document
    assert set(deleted) == LISTED
    assert deleted["status"] == "deleted"
    assert not store.has_run(run_id)


def test_export_and_import_give_run_and_path(documents, command, trained, tmp_path):
    folder = tmp_path / "prompt"
    assert documents("export", trained.run_id, "--to", folder) == {"run_id": trained.run_id, "path": str(folder)}
    outcome = command("import", folder, "--name", "again", "--json", "--runs-dir", tmp_path / "runs")
    assert outcome.code == 0, outcome.stderr
    assert set(outcome.document) == {"run_id", "path"}
    store = Store(tmp_path / "runs")
    assert store.run(outcome.document["run_id"]).name == "again"
    assert np.array_equal(store.prompt(outcome.document["run_id"]), trained.store.prompt(trained.run_id))


def test_prompt_that_is_no_run_can_be_inspected(documents, trained, tmp_path):
    np.save(tmp_path / "prompt.npy", trained.store.prompt(trained.run_id))
    of_file = documents("inspect", tmp_path / "prompt.npy", "--model", "bundled")
    of_run = documents("inspect", trained.run_id)
    of_folder = documents("inspect", trained.store.folder(trained.run_id))
    words = [[[n["id"] for n in t["neighbours"]] for t in d["tokens"]] for d in (of_file, of_run, of_folder)]
    assert words[0] == words[1] == words[2]
    assert {t["echo"] for t in of_file["tokens"]} == {None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs", "list"], ["{run}", "done"]),
        (["inspect", "{run}"], ["1  ", "8  "]),
        (["eval", "{run}"], ["accuracy", "macro_f1"]),
        (["predict", "{run}", "--text", "It broke."], ["complaint", "It broke."]),
    ],
)
def test_without_json_a_person_can_read_it(command, trained, arguments, words):
    arguments = [trained.run_id if a == "{run}" else a for a in arguments]
    outcome = command(*arguments, "--runs-dir", trained.runs_dir)
    assert outcome.code == 0, outcome.stderr
    assert [w for w in words if w.replace("{run}", trained.run_id) not in outcome.stdout] == []
    assert not outcome.stdout.startswith(("{", "["))


def test_shown_run_says_how_it_stands_what_is_not_default_its_figures_and_its_log(command, trained):
    said = command("runs", "show", trained.run_id, "--runs-dir", trained.runs_dir).stdout
    found = trained.outcome.document
    assert said.startswith(f"{trained.run_id}: done, step 12 of 12\n")
    lines = {" ".join(line.split()) for line in said.splitlines()}
    assert {"virtual tokens 8", "steps 12", f"test accuracy {found['eval_accuracy']:.1%}"} <= lines
    assert not [line for line in lines if line.startswith("batch size")]
    assert said.splitlines()[-1].endswith("done after 12 steps")


# ------------------------------------------------------------------ going on


def test_resume_and_fork_give_the_train_document(command, tmp_path, mail_csv):
    def document(*arguments):
        outcome = command(*arguments, "--json", "--runs-dir", tmp_path)
        assert outcome.code == 0, outcome.stderr
        found = strict(outcome.stdout)
        assert set(found) == TRAIN | TRAIN_BESIDES
        return found

    store = Store(tmp_path)
    run_id = store.create(TrainConfig(data=str(mail_csv), steps=3, virtual_tokens=4), status="interrupted")
    first = document("resume", run_id)
    assert (first["run_id"], first["status"], first["steps"]) == (run_id, "done", 3)
    more = document("resume", run_id, "--steps", 5)
    assert (more["run_id"], more["status"], more["steps"]) == (run_id, "done", 5)
    assert [record.step for record in store.metrics(run_id)] == [1, 2, 3, 4, 5]
    assert store.config(run_id).steps == 5
    forked = document("fork", run_id, "--step", 3, "--lr", 0.01, "--steps", 2, "--keep-optimizer")
    assert (forked["status"], forked["steps"]) == ("done", 2)
    assert store.facts(forked["run_id"])["parent"] == {"run_id": run_id, "step": 3}
    assert store.config(forked["run_id"]).lr == 0.01
    warm = document("train", "--data", mail_csv, "--init", "from_run", "--init-run", run_id, "--steps", 1)
    assert store.config(warm["run_id"]).virtual_tokens == 4
    assert np.array_equal(store.snapshots(warm["run_id"])[1][0], store.prompt(run_id))


# ---------------------------------------------------------- help and folder


@pytest.mark.parametrize(
    "name", ["train", "resume", "fork", "compare", "inspect", "eval", "predict", "export", "import", "runs"]
)
def test_every_command_has_help_with_the_common_flags(command, name):
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.stdout
    assert "--runs-dir" in outcome.stdout


def test_every_setting_has_a_flag_with_its_default(command):
    said = " ".join(command("train", "--help").stdout.split())
    for key, info in TrainConfig.model_fields.items():
        assert f"--{key.replace('_', '-')}" in said
        if info.default is not None and key != "template":
            assert f"(default {str(info.default)!r})" in said


def test_runs_folder_comes_from_the_environment(command, trained, monkeypatch):
    monkeypatch.setenv("SOFTPROMPT_HOME", str(trained.runs_dir))
    assert [row["run_id"] for row in command("runs", "list", "--json").document] == [trained.run_id]


# ------------------------------------------------------------------- faults


def fault(*_, **__):
    raise RuntimeError("injected fault")


def test_fault_of_ours_ends_with_one_and_its_traceback_in_the_log(command, tmp_path, monkeypatch):
    monkeypatch.setattr(operations, "listing", fault)
    Store(tmp_path).create(TrainConfig())
    outcome = command("runs", "list", "--json", "--runs-dir", tmp_path)
    log = tmp_path / "softprompt.log"
    assert outcome.code == 1
    assert outcome.stdout == ""
    assert str(log) in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "RuntimeError: injected fault" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("command_name", ["train", "compare"])
def test_fault_while_training_ends_with_one_and_fails_its_runs(
    command, tmp_path, mail_csv, monkeypatch, command_name
):
    monkeypatch.setattr(training, "learning_rate", fault)
    outcome = command(command_name, "--data", mail_csv, *QUICK, "--json", "--runs-dir", tmp_path)
    log = tmp_path / "softprompt.log"
    assert outcome.code == 1
    assert outcome.stdout == ""
    assert str(log) in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "RuntimeError: injected fault" in log.read_text(encoding="utf-8")
    for info in Store(tmp_path).runs():
        assert info.status == "failed"
        assert "RuntimeError" in info.reason


# ------------------------------------------------------------------ stopping


def when_at_work(runs_dir, act):
    """A thread that calls `act` with the run's id after its first look at validation, while it is at work."""

    def watch():
        while True:
            (info, *_) = Store(runs_dir).runs() or [None]
            if info is not None and info.status in ENDED:
                return
            if info is not None and info.step >= 4:
                act(info.run_id)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def stopped_run(command, runs_dir, mail_csv, act):
    thread = when_at_work(runs_dir, act)
    outcome = command(
        "train", "--data", mail_csv, "--steps", 100_000, "--eval-every", 2, "--virtual-tokens", 2, "--json",
        "--runs-dir", runs_dir,
    )
    thread.join()
    assert outcome.code == 0, outcome.stderr
    return outcome.document


def test_interrupt_keeps_the_best_prompt(command, tmp_path, mail_csv):
    found = stopped_run(command, tmp_path, mail_csv, lambda _: os.kill(os.getpid(), signal.SIGINT))
    store = Store(tmp_path)
    assert found["status"] == store.run(found["run_id"]).status == "stopped"
    assert 4 <= found["steps"] < 100_000
    looks = [e for e in store.evals(found["run_id"]) if e.split == "validation"]
    assert found["selected_step"] == min(looks, key=lambda e: e.loss).step
    assert store.prompt(found["run_id"]).shape == (2, 256)


def test_run_is_stopped_from_another_process(command, tmp_path, mail_csv):
    def stop(run_id):
        arguments = ["runs", "stop", run_id, "--runs-dir", str(tmp_path)]
        subprocess.run([sys.executable, "-m", "softprompt_core.cli", *arguments], check=True, capture_output=True)

    found = stopped_run(command, tmp_path, mail_csv, stop)
    assert found["status"] == "stopped"
    assert "Stopped by the user" in found["reason"]
    assert len(Store(tmp_path).metrics(found["run_id"])) == found["steps"]


def test_a_second_ctrl_c_ends_even_what_cannot_be_stopped(command, mail_csv, tmp_path, monkeypatch):
    def stubborn(store, runs, control, **named):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert control.is_stopped(next(iter(runs)))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("softprompt_core.jobs.execute.execute", stubborn)
    outcome = command("train", "--data", mail_csv, "--runs-dir", tmp_path / "runs")
    assert (outcome.code, outcome.stdout) == (130, "")
    assert "Stopped" in outcome.stderr
