"""Bad input through the command line: exit code 2, one or two sentences that help, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import pytest
import torch
from transformers import ViTConfig, ViTModel

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.models import BUNDLED_FOLDER, input_embeddings
from softprompt_core.records import ENDED
from softprompt_core.store import Store

SENTENCE = re.compile(r"[.!?](?= [A-Z'{]|$)")


@pytest.fixture
def refused(command, tmp_path):
    """Runs a command that must be refused, and returns what it said to the user.

    The runs folder holds one finished run beforehand, which must be there unchanged after.
    """
    runs_dir = tmp_path / "runs"
    store = Store(runs_dir)
    kept = finished_run(store)

    def refused(*arguments, sentences=2):
        before = store.run(kept)
        outcome = command(*arguments, "--runs-dir", runs_dir)
        assert outcome.code == 2, outcome.stderr
        assert outcome.stdout == ""
        message = last_message(outcome.stderr)
        assert 1 <= len(SENTENCE.findall(message)) <= sentences, message
        assert store.run(kept) == before
        for info in store.runs():
            assert info.status in ENDED
            assert info.run_id == kept or (info.status == "failed" and info.reason == message)
        return message

    return refused


def finished_run(store):
    """The id of a run that has ended, with settings but no training."""
    from softprompt_core.records import EndRecord

    run_id = store.create(TrainConfig(name="before"))
    store.append([EndRecord(run_id, "done", "", {"steps": 1})])
    return run_id


def last_message(stderr):
    """The last line of stderr, which is the whole message; no traceback anywhere."""
    assert "Traceback" not in stderr
    assert "File \"" not in stderr
    lines = stderr.splitlines()
    assert lines
    assert not re.search(r"[a-z]Error\b", lines[-1]), lines[-1]
    assert lines.count(lines[-1]) == 1
    return lines[-1]


def png():
    """A real picture of one grey point."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\x80")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


MANY = "".join(f"message number {i},{'ab'[i % 2]}\n" for i in range(40))

FILES = {
    "picture.csv": (png(), ["'picture.csv'", "binary", "CSV"]),
    "picture.png": (png(), ["'picture.png'", "CSV, TSV or JSONL"]),
    "empty.csv": (b"", ["'empty.csv'", "empty"]),
    "mark.csv": (b"\xef\xbb\xbf", ["'mark.csv'", "empty"]),
    "commas.csv": (b",,\n,,\n", ["'commas.csv'", "empty"]),
    "header.csv": (b"text,label\n", ["'header.csv'", "header", "no rows"]),
    "one-column.csv": (b"text\nhello\n", ["'one-column.csv'", "one column", "label"]),
    "one-label.csv": (b"text,label\n" + b"hello,a\n" * 40, ["'label'", "only the label 'a'", "two"]),
    "no-label.csv": (b"text,label\n" + b"hello,\n" * 40, ["'label'", "no row with both text and label"]),
    "latin.csv": (("text,label\n" + MANY.replace("message", "caf\u00e9")).encode("latin-1"), ["'latin.csv'", "UTF-8"]),
    "ragged.csv": (b"text,label\na, b, c,x\n", ["Line 2", "4 values", "quotes"]),
    "few.csv": (b"text,label\nhello,a\nbye,b\n", ["too few", "8 rows"]),
    "broken.jsonl": (b'{"text": "a", "label": "b"}\n{"text"\n', ["Line 2 of 'broken.jsonl'", "JSON"]),
    "ids.csv": (b"text,label\n" + b"".join(b"t%d,l%d\n" % (i, i) for i in range(300)), ["300 different", "200"]),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_no_labelled_table(refused, tmp_path, name):
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    message = refused("train", "--data", tmp_path / name)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "/nowhere/mail.csv"], ["'/nowhere/mail.csv'", "complaints"]),
        (["--data", "nosuchdata"], ["'nosuchdata'", "complaints"]),
        (["--data", "owner/nosuchdata"], ["'owner/nosuchdata'", "hub"]),
        (["--data", "x" * 6_000], ["There is no data", "complaints"]),
        (["--data", ""], ["data"]),
        (["--text-column", "nope"], ["text column 'nope'", "'text', 'label'"]),
        (["--label-column", "nope"], ["label column 'nope'", "'text', 'label'"]),
        (["--text-column", "label", "--label-column", "label"], ["both column 'label'"]),
        (["--template", "{nope}"], ["{nope}", "{text}"]),
        (["--template", "{text.__class__}"], ["{text.__class__}", "attribute", "{text}"]),
        (["--template", "{text[0]}"], ["{text[0]}", "index", "{text}"]),
        (["--template", "{text!r:>9}"], ["{text!r:>9}", "more than a column"]),
        (["--template", "{text"], ["unmatched braces", "{text}"]),
        (["--template", "text}"], ["unmatched braces", "{text}"]),
        (["--template", "Label:"], ["names no column", "{text}"]),
        (["--template", "{text}\\"], None),
        (["--template", ""], ["template"]),
        (["--template", "word " * 300 + "{text}"], ["Shorten the template"]),
        (["--virtual-tokens", "600"], ["600 virtual tokens", "512", "at most"]),
        (["--virtual-tokens", "0"], ["virtual tokens", "at least 1"]),
        (["--virtual-tokens", "2000"], ["virtual tokens", "at most 1000"]),
        (["--virtual-tokens", "2.5"], ["virtual tokens", "whole number"]),
        (["--lr", "0"], ["learning rate", "above 0"]),
        (["--lr", "-0.1"], ["learning rate", "'-0.1'", "above 0"]),
        (["--lr", "nan"], ["learning rate", "'nan'", "above 0"]),
        (["--lr", "inf"], ["learning rate", "'inf'"]),
        (["--lr", "fast"], ["learning rate", "'fast'", "number"]),
        (["--steps", "0"], ["steps", "'0'", "at least 1"]),
        (["--steps", "-5"], ["steps", "'-5'", "at least 1"]),
        (["--batch-size", "0"], ["batch size", "'0'", "at least 1"]),
        (["--eval-every", "0"], ["evaluate every", "at least 1"]),
        (["--seed", "-1"], ["seed", "at least 0"]),
        (["--init", "magic"], ["initialisation", "'magic'", "sampled_vocab"]),
        (["--init-text", " "], ["initial text", "blank"]),
        (["--schedule", "steep"], ["schedule", "'steep'", "cosine"]),
        (["--method", "magic"], ["method", "'magic'", "prompt"]),
        (["--device", "tpu"], ["device", "'tpu'", "cuda"]),
        (["--device", "cuda:"], ["device", "'cuda:'"]),
        (["--device", "cuda:999"], ["device", "'cuda:999'", "cpu"]),
        (["--dtype", "int3"], ["dtype", "'int3'", "bf16"]),
        (["--name", "../x"], ["run name", "'../x'", "plain name"]),
        (["--name", "a\\b"], ["run name", "plain name"]),
        (["--model", "/nowhere/model"], ["'/nowhere/model'", "config.json"]),
        (["--model", "nosuchmodel"], ["'nosuchmodel'", "bundled"]),
        (["--model", "x" * 6_000], ["no model folder", "bundled"]),
        (["--learning-rate", "1"], ["--learning-rate", "--help"]),
        (["extra"], ["extra", "--help"]),
        (["--steps"], ["--steps", "--help"]),
    ],
)
def test_setting_that_cannot_work(refused, command, tmp_path, arguments, words):
    data = [] if "--data" in arguments else ["--data", "complaints"]
    if words is None:       # a lone backslash is only a character
        assert command("train", *data, *arguments, "--steps", 0, "--runs-dir", tmp_path).stderr.startswith("steps")
        return
    message = refused("train", *data, *arguments)
    assert [word for word in words if word.lower() not in message.lower()] == []


def test_all_mistakes_of_the_settings_are_told_at_once(refused):
    message = refused("train", "--steps", 0, "--lr", "nan", "--init", "magic", "--name", "a/b", sentences=4)
    assert all(word in message for word in ("steps", "learning rate", "initialisation", "run name"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"steps": 3', ["'settings.json'", "not valid JSON"]),
        ("", ["not valid JSON"]),
        ('{"steps": ' + "9" * 5_000 + "}", ["not valid JSON"]),
        ("[1, 2]", ["list", "object"]),
        ('{"cycles": 3, "rate": 1}', ["unknown settings", "cycles, rate", "steps"]),
        ('{"steps": 0}', ["steps", "at least 1"]),
        ('{"lr": NaN}', ["learning rate"]),
        ('{"lr": null}', ["learning rate"]),
        ('{"name": "a/b"}', ["run name"]),
        ('{"template": "\\ud800{text}"}', ["template"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        (None, ["cannot be read", "Check the path"]),
    ],
)
def test_config_file_that_cannot_work(refused, tmp_path, content, words):
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused("train", "--config", path)
    assert [word for word in words if word.strip("'") not in message] == []


# ------------------------------------------------------------------ models


@pytest.fixture
def model_folder(tmp_path):
    """A copy of the bundled model that a test may spoil."""
    return shutil.copytree(BUNDLED_FOLDER, tmp_path / "model")


def spoil_no_config(folder):
    (folder / "config.json").unlink()


def spoil_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def spoil_config(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def spoil_kind(folder):
    (folder / "config.json").write_text('{"model_type": "nosuchkind"}', encoding="utf-8")


def spoil_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not a tensor")


def spoil_into_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, folder / "pytorch_model.bin")


def spoil_into_vision(folder):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).unlink()
    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    ViTModel(config).save_pretrained(folder)


def spoil_into_encoder_decoder(folder):
    config = {"model_type": "t5", "is_encoder_decoder": True, "d_model": 8, "num_layers": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_no_config, ["no config.json"]),
        (spoil_no_tokenizer, ["tokenizer"]),
        (spoil_config, ["could not be loaded"]),
        (spoil_kind, ["could not be loaded"]),
        (spoil_weights, ["could not be loaded"]),
        (spoil_into_pickle, ["no .safetensors weights", "pickled", "save_pretrained"]),
        (spoil_into_vision, ["no causal language model that reads tokens"]),
        (spoil_into_encoder_decoder, ["do not fill", "T5ForConditionalGeneration", "missing"]),
    ],
)
def test_model_folder_that_cannot_be_used(refused, model_folder, spoil, words):
    spoil(model_folder)
    message = refused("train", "--model", model_folder)
    assert str(model_folder) in message
    assert [word for word in words if word not in message] == []


def test_pictures_model_without_a_tokenizer(refused, model_folder):
    spoil_into_vision(model_folder)
    spoil_no_tokenizer(model_folder)
    assert str(model_folder) in refused("train", "--model", model_folder)


def test_model_whose_input_is_no_word_table_is_named():
    vision = ViTModel(ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(UserError, match=r"'pictures' has no table of word embeddings"):
        input_embeddings(vision, "pictures")


# ---------------------------------------------------------- other commands


@pytest.mark.parametrize("run_id", ["nope", "../x", "../../etc/passwd", "a/b", "", " ", "x" * 300])
@pytest.mark.parametrize(
    "arguments",
    [
        ["eval"], ["predict", "--text", "hello"], ["export", "--to", "out"], ["inspect"],
        ["runs", "show"], ["runs", "stop"], ["runs", "delete"], ["runs", "pause"], ["runs", "unpause"],
        ["resume"], ["fork"], ["fork", "--step", "3"],
    ],
)
def test_unknown_run(refused, tmp_path, arguments, run_id):
    words = [str(tmp_path / a) if a == "out" else a for a in arguments]
    at = 2 if words[0] == "runs" else 1
    message = refused(*words[:at], run_id, *words[at:])
    assert "run" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["dance"], ["'dance'", "train"]),
        (["runs"], ["action"]),
        (["runs", "dance"], ["'dance'", "delete"]),
        (["runs", "delete"], ["needs the id of a run"]),
        (["predict"], ["RUN"]),
        (["export", "some-run"], ["--to"]),
        (["resume"], ["RUN"]),
        (["fork", "some-run", "--method", "lora"], ["--method"]),
        (["train", "--init", "from_run"], ["Initial run", "needs the id"]),
        (["train", "--init", "from_run", "--init-run", "nope"], ["no run 'nope'", "runs list"]),
        (["train", "--init-run", "nope"], ["Initial run", "no other init"]),
        (["compare", "--init", "from_run,text"], ["Initial run", "needs the id"]),
        (["import", "/nowhere/prompt"], ["'/nowhere/prompt'", "PEFT"]),
        (["compare", "--init", "text,magic"], ["'magic'", "sampled_vocab"]),
        (["compare", "--init", ","], ["initialisations", "name one or more"]),
        (["compare", "--init", "text,text"], ["initialisations", "once"]),
        (["compare", "--seeds", "0"], ["seeds", "at least 1"]),
        (["compare", "--seeds", "²"], ["seeds", "whole number"]),
        (["compare", "--seeds", "9" * 5_000], ["seeds", "whole number"]),
        (["compare", "--seeds", "51"], ["seeds", "at most 50"]),
        (["compare", "--steps", "0"], ["steps", "at least 1"]),
        (["compare", "--data", "nosuchdata"], ["'nosuchdata'"]),
        (["compare", "--virtual-tokens", "600"], ["600 virtual tokens"]),
    ],
)
def test_command_that_says_too_little_or_too_much(command, tmp_path, arguments, words):
    folder = ["--runs-dir", tmp_path] if arguments and arguments[0] not in ("dance",) else []
    outcome = command(*arguments, *folder)
    assert outcome.code == 2, outcome.stderr
    assert outcome.stdout == ""
    message = last_message(outcome.stderr)
    assert [word for word in words if word not in message] == []
    assert {info.status for info in Store(tmp_path).runs()} <= {"failed"}


@pytest.fixture
def refused_of_trained(command, trained):
    """As `refused`, for commands on the shared finished run."""

    def refused(*arguments):
        before = trained.store.runs()
        outcome = command(*arguments, "--runs-dir", trained.runs_dir)
        assert outcome.code == 2, outcome.stderr
        assert outcome.stdout == ""
        assert trained.store.runs() == before
        return last_message(outcome.stderr)

    return refused


def test_predict_needs_texts_from_one_place(refused_of_trained, trained, tmp_path):
    for arguments in ([], ["--text", "hello", "--file", tmp_path / "rows.csv"], ["--text", ""]):
        assert "text" in refused_of_trained("predict", trained.run_id, *arguments)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", b"body,kind\nhello,a\n", ["'text'", "'body'"]),
        ("rows.txt", b"\n\n", ["blank or missing"]),
        ("latin.txt", b"caf\xe9\n", ["cannot be read", "UTF-8"]),
        ("picture.csv", png(), ["binary"]),
        ("nowhere.csv", None, ["cannot be read"]),
        ("nowhere.txt", None, ["cannot be read"]),
        ("rows.pdf", b"%PDF", ["no CSV, TSV or JSONL"]),
    ],
)
def test_predict_from_a_file_that_holds_no_texts(refused_of_trained, trained, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = refused_of_trained("predict", trained.run_id, "--file", tmp_path / name)
    assert [word for word in words if word not in message] == []


def test_eval_on_other_labels(refused_of_trained, trained, mail_csv):
    message = refused_of_trained("eval", trained.run_id, "--data", mail_csv)
    assert all(word in message for word in ("'bad'", "'complaint'"))


def test_export_into_a_folder_that_is_not_empty(refused_of_trained, trained, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    assert "not empty" in refused_of_trained("export", trained.run_id, "--to", tmp_path)
    assert "is a file" in refused_of_trained("export", trained.run_id, "--to", tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top", "0"], ["--top", "at least 1"]),
        (["--top", "many"], ["--top", "'many'"]),
        (["--metric", "magic"], ["--metric", "cosine, dot, l2"]),
        (["--correction", "magic"], ["--correction", "csls"]),
    ],
)
def test_inspect_with_unknown_switches(refused_of_trained, trained, arguments, words):
    message = refused_of_trained("inspect", trained.run_id, *arguments)
    assert [word for word in words if word not in message] == []


def test_import_of_what_holds_no_prompt(refused_of_trained, trained, tmp_path):
    (tmp_path / "prompt.pt").write_bytes(b"\x80\x04")
    assert "pickle" in refused_of_trained("import", tmp_path / "prompt.pt")
    assert "no soft prompt" in refused_of_trained("import", trained.runs_dir)
    assert "plain name" in refused_of_trained("import", trained.store.folder(trained.run_id), "--name", "a/b")


def test_ended_run_cannot_be_stopped(refused_of_trained, trained):
    assert "ended already" in refused_of_trained("runs", "stop", trained.run_id)


def test_done_run_goes_on_only_to_more_steps(refused_of_trained, trained):
    assert "done after 12 of 12 steps. Name a larger" in refused_of_trained("resume", trained.run_id)
    for steps, words in (("12", "has reached 12"), ("3", "has reached 12"), ("0", "at least 1"), ("many", "whole")):
        assert words in refused_of_trained("resume", trained.run_id, "--steps", steps)
    assert "is done; there is nothing to pause" in refused_of_trained("runs", "pause", trained.run_id)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "5"], "no checkpoint of step 5. Those it has: 6, 12."),
        (["--step", "-1"], "whole number"),
        (["--lr", "0"], "learning rate: '0' was given"),
        (["--data", "nosuchdata"], "nosuchdata"),
        (["--keep-optimizer", "--optimizer", "adafactor"], "means nothing to adafactor"),
    ],
)
def test_fork_that_cannot_be(refused_of_trained, trained, arguments, words):
    assert words in refused_of_trained("fork", trained.run_id, *arguments)


def test_start_at_a_run_of_another_length(refused_of_trained, trained):
    message = refused_of_trained("train", "--init", "from_run", "--init-run", trained.run_id, "--virtual-tokens", 3)
    assert "8 × 256; this run has 3 virtual tokens" in message


def test_running_run_cannot_be_resumed_nor_an_import(command, trained, tmp_path):
    store = Store(tmp_path / "runs")
    run_id = store.create_group([TrainConfig()], status="running", owner=f"{os.uname().nodename}:{os.getpid()}:x")[0]
    outcome = command("resume", run_id, "--runs-dir", store.root)
    assert (outcome.code, last_message(outcome.stderr)) == (
        2, f"Run {run_id!r} is running already. Stop it before you resume it."
    )
    imported = command("import", trained.store.folder(trained.run_id), "--json", "--runs-dir", store.root)
    outcome = command("resume", imported.document["run_id"], "--steps", "500", "--runs-dir", store.root)
    assert outcome.code == 2
    assert "was imported" in last_message(outcome.stderr)


def test_damaged_checkpoints(command, trained, tmp_path):
    shutil.copytree(trained.runs_dir, tmp_path / "runs")
    for path in (tmp_path / "runs" / trained.run_id / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    outcome = command("fork", trained.run_id, "--step", "6", "--runs-dir", tmp_path / "runs")
    assert outcome.code == 2
    assert "step-00000006.safetensors" in last_message(outcome.stderr)
    assert "damaged" in last_message(outcome.stderr)
    outcome = command("fork", trained.run_id, "--runs-dir", tmp_path / "runs")
    assert "no checkpoint to fork" in last_message(outcome.stderr)
    assert len(Store(tmp_path / "runs").runs()) == 1


def test_running_run_cannot_be_deleted(command, tmp_path):
    store = Store(tmp_path)
    run_id = store.create(TrainConfig(), status="running")
    outcome = command("runs", "delete", run_id, "--runs-dir", tmp_path)
    assert outcome.code == 2
    assert "Stop it first" in last_message(outcome.stderr)
    assert store.has_run(run_id)


def test_runs_folder_that_cannot_be_used(command, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = command("runs", "list", "--runs-dir", tmp_path / "file")
    assert outcome.code == 2
    assert "--runs-dir" in last_message(outcome.stderr)


# ------------------------------------------------------ as a real process


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "nosuchdata", "--json"], ["nosuchdata", "complaints"]),
        (["train", "--template", "{nope}", "--json"], ["{nope}"]),
        (["train", "--virtual-tokens", "600"], ["600 virtual tokens"]),
        (["predict", "nope", "--text", "hello"], ["no run 'nope'"]),
        (["--nonsense"], ["--help"]),
    ],
)
def test_process_ends_with_two_and_no_traceback(tmp_path, arguments, words):
    done = subprocess.run(
        [sys.executable, "-m", "softprompt_core.cli", *arguments], capture_output=True, text=True, cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    message = last_message(done.stderr)
    assert [word for word in words if word not in message] == []
    if (tmp_path / "runs").exists():
        assert {info.status for info in Store(tmp_path / "runs").runs()} <= {"failed"}
