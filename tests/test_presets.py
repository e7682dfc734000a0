"""Recipes that can be read, checked against the settings and their sources."""

from __future__ import annotations

import json
import math

import pytest

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.presets import PRESETS_FOLDER, list_presets, load_preset

NAMES = ["lester-2021", "peft-example", "quick", "soft-embedding"]


def test_every_file_is_a_recipe_with_its_source():
    assert [preset.name for preset in list_presets()] == NAMES
    for preset in list_presets():
        assert preset.about.endswith(".")
        assert preset.config() == TrainConfig(**preset.settings)


def test_recipes_name_no_model_and_no_data_so_that_none_starts_a_download():
    assert all(not {"model", "data", "device"} & set(preset.settings) for preset in list_presets())


def test_lester_is_what_the_paper_says():
    config = load_preset("lester-2021").config()
    assert (config.optimizer, config.lr, config.schedule, config.warmup) == ("adafactor", 0.3, "constant", 0)
    assert (config.weight_decay, config.virtual_tokens, config.batch_size, config.steps) == (1e-5, 100, 32, 30_000)
    assert (config.init, config.select_by) == ("class_labels", "accuracy")


def test_peft_example_is_what_its_loop_does():
    config = load_preset("peft-example").config().for_rows(50)
    assert config.steps == 50 * 7       # 50 epochs of a loader that gives 50 rows in batches of 8, the last of 2
    assert (config.optimizer, config.lr, config.schedule, config.warmup) == ("adamw", 0.03, "linear", 0)
    assert (config.virtual_tokens, config.batch_size) == (8, 8)
    assert config.init_text == "Classify if the tweet is a complaint or not:"


def test_settings_of_a_recipe_can_be_replaced():
    assert load_preset("peft-example").config(steps=3).for_rows(400).steps == 3
    assert load_preset("quick").config(epochs=2).for_rows(8).steps == 2


@pytest.mark.parametrize("wrong", ["magic", "", "../model/config", "quick.json", "QUICK"])
def test_unknown_name_is_answered_with_those_there_are(wrong):
    with pytest.raises(UserError) as caught:
        load_preset(wrong)
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["mine", "json"]),
        ('{"title": "a", "about": "b", "source": "c"}', ["settings", "required"]),
        ('{"title": "a", "about": "b", "source": "c", "settings": {}, "steps": 3}', ["steps"]),
        ('{"title": "", "about": "b", "source": "c", "settings": {}}', ["title"]),
        ('{"title": "a", "about": "b", "source": "c", "settings": {"stepps": 3}}', ["stepps", "allowed"]),
        ('{"title": "a", "about": "b", "source": "c", "settings": {"steps": 0}}', ["steps", "at least 1"]),
    ],
)
def test_file_that_is_no_recipe_says_what_is_wrong(tmp_path, content, words):
    (tmp_path / "mine.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_preset("mine", folder=tmp_path)
    assert [word for word in words if word not in str(caught.value)] == []


def test_files_are_tidy_json():
    for path in PRESETS_FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert set(json.loads(text)) == {"title", "about", "source", "settings"}
        assert text.endswith("}\n")


# ---------------------------------------------------------------- command line


def settings_of(command, tmp_path, mail_csv, *arguments):
    from softprompt_core.store import Store

    outcome = command(
        "train", "--data", mail_csv, "--virtual-tokens", 2, *arguments, "--json", "--runs-dir", tmp_path / "runs"
    )
    assert outcome.code == 0, outcome.stderr
    return Store(tmp_path / "runs").config(outcome.document["run_id"]), outcome.document


def test_config_file_wins_over_the_recipe_and_flags_over_both(command, tmp_path, mail_csv):
    path = tmp_path / "settings.json"
    path.write_text('{"steps": 2, "lr": 0.5, "batch_size": 3}', encoding="utf-8")
    config, document = settings_of(
        command, tmp_path, mail_csv, "--preset", "peft-example", "--config", path, "--lr", 0.25
    )
    assert (config.lr, config.batch_size, config.weight_decay) == (0.25, 3, 0.01)
    assert (config.steps, config.epochs) == (2, None)       # steps of the file, not the recipe's epochs
    assert document["steps"] == 2


def test_epochs_become_steps_when_the_rows_are_known(command, tmp_path, mail_csv):
    from softprompt_core.store import Store

    config, document = settings_of(
        command, tmp_path, mail_csv, "--preset", "peft-example", "--epochs", 0.5, "--init-text", "good or bad?"
    )
    (info,) = Store(tmp_path / "runs").runs()
    rows = Store(tmp_path / "runs").facts(info.run_id)["split_sizes"]["train"]
    expected = math.ceil(0.5 * math.ceil(rows / 8))
    assert (config.epochs, document["steps"], info.steps) == (0.5, expected, expected)


def test_unknown_recipe_on_the_command_line(command, tmp_path):
    for what in ("train", "compare"):
        outcome = command(what, "--preset", "magic", "--runs-dir", tmp_path)
        assert outcome.code == 2
        assert outcome.stderr.strip() == f"preset: 'magic' was given; allowed are {', '.join(NAMES)}."
