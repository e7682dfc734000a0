"""One table before compute is spent, against what the run then does."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from softprompt_core import operations
from softprompt_core import preflight as module
from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.models import BUNDLED_FOLDER, load_model
from softprompt_core.preflight import Preflight, duration, preflight
from softprompt_core.records import EndRecord, StepRecord
from softprompt_core.store import Store
from softprompt_core.training import train

QUICK = {"steps": 6, "batch_size": 4, "virtual_tokens": 5}


def config(mail_csv, **changes):
    return TrainConfig(data=str(mail_csv), **{**QUICK, **changes})


def value(found: Preflight, what: str) -> str:
    return dict(found.rows)[what]


@pytest.fixture(scope="module")
def usual(mail_csv):
    return preflight(config(mail_csv))


def test_figures_are_those_of_the_run(mail_csv, usual):
    records = list(train({"a": config(mail_csv)}))
    result = next(r for r in records if isinstance(r, EndRecord)).result
    tokens = [r.tokens for r in records if isinstance(r, StepRecord)]
    assert usual.trainable_parameters == result["trainable_parameters"] == 5 * 256
    assert usual.tokens_per_step == pytest.approx(sum(tokens) / len(tokens), rel=0.1)
    assert (usual.dropped_rows, usual.cut_rows) == (result["dropped_rows"], result["cut_rows"])
    assert (usual.layout, usual.steps, usual.passes_per_step) == (result["layout"], 6, 1)
    assert usual.split_rows["test"] == result["test_rows"]
    assert usual.model_parameters == sum(p.numel() for p in load_model("bundled").module.parameters())


def test_measured_figures_are_there_and_make_sense(usual):
    assert usual.is_measured
    assert 0 < usual.seconds_per_step * usual.steps < usual.training_seconds
    assert usual.test_seconds > 0
    assert 1e5 < usual.activation_bytes < 1e8
    assert usual.model_bytes > 4 * usual.model_parameters - 1e6


def test_table_reads_as_a_sentence_each(usual):
    assert [what for what, _ in usual.rows] == [
        "model", "trainable parameters", "rows", "labels", "steps", "tokens a step", "start", "layout", "time",
        "memory",
    ]
    assert value(usual, "trainable parameters") == "1,280 (0.019% of the model's 6,769,920)"
    assert value(usual, "rows").startswith("44 train, 8 validation, 8 test")
    assert value(usual, "labels") == "bad (22), good (22)"
    assert "6, which is 0.545 passes" in value(usual, "steps")


def test_document_is_json(usual):
    document = json.loads(json.dumps(usual.document(), allow_nan=False))
    assert document["rows"][0] == {"what": "model", "value": "bundled on cpu in float32"}
    assert document["warnings"] == usual.warnings
    assert set(document) == {field.name for field in dataclasses.fields(Preflight)}


def test_tokens_of_the_start_are_those_of_the_text(mail_csv):
    settings = config(mail_csv, init_text="late or early")
    assert "".join(module._init_tokens(settings, *_tokenised(settings))) == "late␣or␣early"
    assert module._init_tokens(settings.with_changes(init="random"), *_tokenised(settings)) is None


def _tokenised(settings):
    from softprompt_core.data import load_task
    from softprompt_core.tokenising import tokenise

    base = load_model("bundled")
    return tokenise(load_task(settings), base.tokenizer, settings, context=base.context), base.tokenizer


@pytest.mark.parametrize(
    ("length", "words"),
    [(2, "a·b (the first 2 of 3 tokens; the rest is cut)"), (3, "a·b·c (3 tokens, as written)"),
     (6, "a·b·c (3 tokens, repeated 2 times to fill 6)")],
)
def test_start_says_whether_the_text_was_cut_or_repeated(length, words):
    assert module._start_in_words(TrainConfig(virtual_tokens=length), ["a", "b", "c"]) == words


def test_start_off_scale_is_warned_of(mail_csv):
    found = preflight(config(mail_csv, init="peft_random", lr=5))
    assert any("peft_random" in warning and "as long as" in warning for warning in found.warnings)
    assert any("far above" in warning for warning in found.warnings)
    assert value(found, "start") == "peft_random"


def test_a_batch_larger_than_what_is_tried_is_worked_out(mail_csv, monkeypatch):
    monkeypatch.setattr(module, "TRIED_ROWS", 4)
    settings = config(mail_csv, batch_size=16, accumulation=2, steps=1)
    found = preflight(settings)
    (step,) = [r for r in train({"a": settings}) if isinstance(r, StepRecord)]
    assert found.tokens_per_step == pytest.approx(step.tokens, rel=0.2)
    assert found.passes_per_step == 2


@pytest.fixture
def large_model(tmp_path, monkeypatch):
    """A model that is too large to be loaded unasked."""
    folder = tmp_path / "large"
    shutil.copytree(BUNDLED_FOLDER, folder)
    monkeypatch.setattr(module, "CHEAP_BYTES", 1_000)
    return folder


def test_a_large_model_is_not_loaded_unasked(mail_csv, large_model, monkeypatch):
    monkeypatch.setattr(module, "load_model", lambda *given, **named: pytest.fail("loaded"))
    found = preflight(config(mail_csv, model=str(large_model), lr=5, epochs=2))
    assert not found.is_measured
    assert value(found, "time") == value(found, "memory") == "unknown until the model is loaded"
    assert found.tokens_per_step > 30
    assert found.steps == 2 * 11
    assert any("far above" in warning for warning in found.warnings)
    assert any("as written" in text or "repeated" in text or "cut" in text for _, text in found.rows)


def test_a_large_model_is_loaded_where_it_may_be(mail_csv, large_model):
    assert preflight(config(mail_csv, model=str(large_model)), may_load=True).is_measured


def test_what_would_stop_the_run_is_the_first_warning(mail_csv, monkeypatch):
    monkeypatch.setattr("softprompt_core.copies.available_bytes", lambda device: 1_000_000)
    found = preflight(config(mail_csv, method="full", lr=0.0003))
    assert found.warnings[0].startswith("As it is the run will stop before its first step: Full fine-tuning")
    assert not found.is_measured


def test_a_long_final_test_and_little_memory_are_warned_of(mail_csv, usual, monkeypatch):
    base = load_model("bundled")
    slow = dataclasses.replace(usual, test_seconds=900.0, training_seconds=100.0)
    assert "15 min, longer than training itself" in module._about_cost(slow, base)[0]
    monkeypatch.setattr(module, "available_bytes", lambda device: 1_000)
    assert "Choose a smaller batch size" in module._about_cost(usual, base)[0]


def test_mistakes_in_the_data_are_said_as_in_training(mail_csv):
    with pytest.raises(UserError, match="no label column"):
        preflight(config(mail_csv, label_column="kind"))


def test_start_of_another_run_comes_from_the_store(trained):
    settings = trained.store.config(trained.run_id).with_changes(init="from_run", init_run=trained.run_id, steps=2)
    found = operations.preflight(settings, store=trained.store)
    assert found.is_measured
    assert not any("stop before" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (60, "60 s"), (600, "10 min"), (5_000, "83 min"), (9_000, "2.5 h")]
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


# ---------------------------------------------------------------- command line


def test_command_prints_the_table_and_trains_nothing(command, tmp_path, mail_csv):
    arguments = [
        "train", "--data", mail_csv, "--steps", 3, "--virtual-tokens", 4, "--preflight", "--runs-dir", tmp_path,
    ]
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.stderr
    assert "trainable parameters   1,024" in outcome.stdout
    assert "warning: There are only 44 training rows" in outcome.stdout
    document = command(*arguments, "--json").document
    assert document["trainable_parameters"] == 1_024
    assert Store(tmp_path).runs() == []
