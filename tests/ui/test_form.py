"""The form says what the settings say: defaults, limits, mistakes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.presets import list_presets
from softprompt_core.ui import form, train_form

FIELDS = list(TrainConfig.model_fields)


def test_what_is_filled_in_is_read_back_equal() -> None:
    for config in (TrainConfig(), TrainConfig(name="a", eval_every=7, init="random", text_column="body", lr=0.5)):
        assert form.read(FIELDS, form.fill(FIELDS, config)) == config


def test_numbers_show_default_and_limits_of_the_settings() -> None:
    shown = form.number("batch_size")
    assert shown.value == TrainConfig().batch_size
    assert "(1 to 4,096)" in str(shown.info)
    assert "(over 0 to 100)" in str(form.number("lr").info)


def test_every_mistake_is_reported_at_once() -> None:
    values = dict(zip(FIELDS, form.fill(FIELDS, TrainConfig()), strict=True))
    values |= {"steps": 2.5, "lr": None, "eval_every": "often"}
    with pytest.raises(UserError) as caught:
        form.read(FIELDS, list(values.values()))
    assert all(word in str(caught.value) for word in ("steps: 2.5", "learning rate: None", "evaluate every: 'often'"))


def test_upload_is_kept_once_and_listed_under_its_name(tmp_path: Path) -> None:
    source = tmp_path / "my notes.csv"
    source.write_text("text,label\na,b\n", encoding="utf-8")
    kept = form.keep_upload(str(source), root=tmp_path / "runs")
    assert kept == form.keep_upload(str(source), root=tmp_path / "runs")
    assert kept.read_bytes() == source.read_bytes()
    assert form.uploads(tmp_path / "runs") == [("my notes.csv (uploaded)", str(kept))]


def test_uploads_of_one_name_are_told_apart_by_their_time(tmp_path: Path) -> None:
    for number, text in enumerate(("text,label\na,b\n", "text,label\nc,d\n")):
        source = tmp_path / "train.csv"
        source.write_text(text, encoding="utf-8")
        os.utime(form.keep_upload(str(source), root=tmp_path / "runs"), (number * 100, number * 100))
    newer, older = (name for name, _ in form.uploads(tmp_path / "runs"))
    assert newer != older
    assert all(re.fullmatch(r"train\.csv \(uploaded \d\d \w+ \d\d:\d\d:\d\d\)", name) for name in (newer, older))


def test_what_does_not_apply_is_neither_shown_nor_read() -> None:
    shown = {"method": "lora", "init": "from_run", "init_run": "old", "lora_rank": 4, "virtual_tokens": 7, "lr": 0.1}
    config = form.read(list(shown), list(shown.values()))
    assert (config.method, config.init, config.init_run, config.lora_rank) == ("lora", "text", None, 4)
    prompt = form.read(list(shown), list((shown | {"method": "prompt"}).values()))
    assert (prompt.init_run, prompt.virtual_tokens) == ("old", 7)
    assert form.applies("init_run", method="prompt", init="from_run")
    assert not form.applies("init_run", method="prompt", init="text")


def test_every_setting_has_a_component_that_fits_it() -> None:
    for name in FIELDS:
        assert form.field(name).elem_id == f"train-{name}"
    assert form.field("peft_positions").value is False


def test_every_preset_fills_a_form_that_reads_back_as_the_recipe() -> None:
    for preset in list_presets():
        config = preset.config()
        assert form.read(FIELDS, form.fill(FIELDS, config)) == config


def test_recipe_is_shown_in_a_line_and_escaped() -> None:
    shown = train_form.preset_html("For <T5>: more. And more.", "https://example.org/a&b")
    assert "<summary>For &lt;T5&gt;</summary><p>more. And more.</p>" in shown
    assert "a&amp;b" in shown
