"""Settings: limits beside the field, every mistake reported together, a saved config reloads equal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from softprompt_core.config import (
    BUNDLED_MODEL,
    INITS,
    PASS_SETTINGS,
    CompareConfig,
    TrainConfig,
    config_from_json,
    layered,
    limits,
    parse_compare,
    parse_config,
)
from softprompt_core.errors import UserError

NUMBERS = sorted(key for key in TrainConfig.model_fields if limits(key))


def refusal(**values) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(values)
    return str(caught.value)


def test_defaults_are_a_complete_run_on_the_bundled_model_and_data():
    config = TrainConfig()
    assert (config.model, config.data, config.init) == (BUNDLED_MODEL, "complaints", "text")


def test_configs_are_frozen():
    with pytest.raises(ValidationError):
        TrainConfig().steps = 3


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(1, 1_000_000),
            "lr": st.floats(1e-9, 100, allow_nan=False),
            "init": st.sampled_from([init for init in INITS if init != "from_run"]),
            "template": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
            "init_text": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50).filter(str.strip),
            "eval_every": st.none() | st.integers(1, 100),
            "epochs": st.none() | st.floats(0.001, 10_000),
            "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
        },
    )
)
def test_saved_config_reloads_equal(values):
    config = parse_config(values)
    assert parse_config(config_from_json(config.model_dump_json(), origin="saved")) == config


@pytest.mark.parametrize("field", NUMBERS)
def test_number_at_its_limit_is_taken_and_beyond_it_refused_with_the_limit(field):
    found = limits(field)
    low = found.get("ge", found.get("gt"))
    title = TrainConfig.model_fields[field].title
    parse_config({field: found["le"]})
    if "ge" in found:
        parse_config({field: low})
    for wrong in (low - 1, found["le"] * 2, "many", *([low] if "gt" in found else [])):
        message = refusal(**{field: wrong})
        assert message.startswith(f"{title}: {wrong!r} was given")
        assert str(int(found["le"])) in message
        assert "e+" not in message


@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf", float("nan"), float("inf")])
def test_learning_rate_must_be_finite(wrong):
    assert "learning rate" in refusal(lr=wrong)


def test_every_mistake_is_reported_together():
    message = refusal(steps=0, lr=-1, batch_size=0, init="magic", name="a/b")
    for word in ("steps", "learning rate", "batch size", "initialisation", "run name"):
        assert word in message


def test_unknown_setting_is_an_error_that_lists_the_known_ones():
    message = refusal(learning_rate=1)
    assert "'learning_rate'" in message
    assert "lr" in message.split("allowed are")[1]


def test_unknown_init_names_the_allowed_ones():
    message = refusal(init="magic")
    assert all(name in message for name in INITS)


@pytest.mark.parametrize("wrong", ["gpu", "tpu", "cpu:1", "cuda:", "cuda:x", "cuda:²", "auto:0", "CPU", ""])
def test_unknown_device_names_the_allowed_ones(wrong):
    message = refusal(device=wrong)
    assert all(name in message for name in ("auto", "cpu", "cuda", "mps"))


@pytest.mark.parametrize("wrong", ["../x", "a/b", "a\\b", "a\nb", "a\x00b", "..", ".", " ", ""])
def test_run_name_that_could_be_a_path_is_refused(wrong):
    assert "plain name" in refusal(name=wrong)


def test_run_name_keeps_letters_of_any_script_and_loses_outer_spaces():
    assert parse_config({"name": "  Läufe · 日本 #2 "}).name == "Läufe · 日本 #2"


def test_blank_initial_text_is_refused_for_init_text():
    assert "blank" in refusal(init="text", init_text="  ")


@pytest.mark.parametrize(
    ("steps", "eval_every", "expected"), [(300, None, 30), (7, None, 1), (95, None, 10), (300, 50, 50), (1, None, 1)]
)
def test_evaluation_happens_ten_times_a_run_unless_told(steps, eval_every, expected):
    assert TrainConfig(steps=steps, eval_every=eval_every).evaluation_interval == expected


@pytest.mark.parametrize(
    ("epochs", "rows", "batch_size", "accumulation", "steps"),
    [
        (50, 50, 8, 1, 350), (1, 64, 8, 1, 8), (1, 65, 8, 1, 9), (0.5, 64, 8, 2, 2), (0.01, 64, 8, 1, 1),
        (3, 5, 8, 4, 3), (2.2, 25, 1, 1, 55), (1e-9, 64, 8, 1, 1),
    ],
)
def test_epochs_are_steps_that_give_every_row_so_often(epochs, rows, batch_size, accumulation, steps):
    config = TrainConfig(epochs=epochs, steps=7, batch_size=batch_size, accumulation=accumulation).for_rows(rows)
    assert config.steps == steps
    assert config.for_rows(rows) == config


def test_without_epochs_rows_change_nothing():
    assert TrainConfig(steps=7).for_rows(1_000) == TrainConfig(steps=7)


def test_too_many_epochs_for_the_rows_are_refused():
    with pytest.raises(UserError, match="steps"):
        TrainConfig(epochs=10_000, batch_size=1).for_rows(1_000)


def test_steps_given_later_win_over_epochs_given_earlier():
    assert layered({"epochs": 3}, {"steps": 7}) == {"steps": 7}
    assert layered({"steps": 7}, {"epochs": 3}) == {"steps": 7, "epochs": 3}
    assert layered({"lr": 1, "epochs": 3}, {"lr": 2}) == {"lr": 2, "epochs": 3}
    assert TrainConfig(epochs=3).with_changes(steps=7).epochs is None
    assert TrainConfig(epochs=3).with_changes(lr=0.5).epochs == 3


def test_with_changes_checks_again_and_leaves_the_original():
    config = TrainConfig()
    assert config.with_changes(steps=5).steps == 5
    assert config.steps == 300
    with pytest.raises(UserError, match="steps"):
        config.with_changes(steps=0)


def test_only_pass_settings_keep_runs_out_of_one_pass():
    config = TrainConfig()
    changed = {"model": "x", "device": "cpu", "virtual_tokens": 3, "seed": 4, "lr": 1.0, "init": "random", "steps": 2}
    for key, value in changed.items():
        is_shared = config.with_changes(**{key: value}).pass_settings() == config.pass_settings()
        assert is_shared == (key not in PASS_SETTINGS)


# ------------------------------------------------------------------- files


@pytest.mark.parametrize("text", ["{", "", "{'steps': 3}", "[" * 100_000, '{"steps": ' + "1" * 5_000 + "}"])
def test_broken_json_is_refused_by_the_name_of_its_file(text):
    with pytest.raises(UserError, match=r"my\.json is not valid JSON"):
        config_from_json(text, origin="my.json")


@pytest.mark.parametrize("value", [[1], 3, "steps", None, True])
def test_json_that_is_no_object_is_refused(value):
    with pytest.raises(UserError, match=r"my\.json holds a"):
        config_from_json(json.dumps(value), origin="my.json")


def test_unknown_keys_of_a_file_are_all_named():
    with pytest.raises(UserError, match="passes, rate"):
        config_from_json('{"rate": 1, "passes": 2, "steps": 3}', origin="my.json")


def test_json_with_half_a_character_is_refused():
    with pytest.raises(UserError, match="run name"):
        parse_config(config_from_json('{"name": "\\ud800"}', origin="my.json"))


# ------------------------------------------------------------- comparisons


def test_arms_are_every_init_with_every_seed_and_otherwise_alike():
    base = TrainConfig(seed=4, steps=7, name="mine")
    arms = parse_compare(base, inits=["random", "text"], seeds=2).arms()
    assert [(a.init, a.seed) for a in arms] == [("random", 4), ("random", 5), ("text", 4), ("text", 5)]
    assert {a.with_changes(init="text", seed=0) for a in arms} == {base.with_changes(init="text", seed=0, name=None)}


def test_arms_train_in_one_pass():
    assert len({arm.pass_settings() for arm in CompareConfig(seeds=3).arms()}) == 1


@pytest.mark.parametrize(
    ("inits", "seeds", "words"),
    [
        ([], 1, ["initialisations", "random"]),
        (["text", "text"], 1, ["initialisations", "once"]),
        (["text", "magic"], 1, ["initialisations", "'magic'", "sampled_vocab"]),
        (["text"], 0, ["seeds", "at least 1"]),
        (["text"], 51, ["seeds", "at most 50"]),
    ],
)
def test_comparison_mistakes_say_what_is_allowed(inits, seeds, words):
    with pytest.raises(UserError) as caught:
        parse_compare(TrainConfig(), inits=inits, seeds=seeds)
    assert all(word in str(caught.value) for word in words)
    assert "tuple" not in str(caught.value)


def test_seeds_beyond_the_largest_are_refused():
    config = CompareConfig(base=TrainConfig(seed=2**31 - 1), seeds=2)
    with pytest.raises(UserError, match="seed"):
        config.arms()


def test_only_methods_that_begin_at_a_prompt_take_one_of_a_run():
    begins = {"init": "from_run", "init_run": "earlier"}
    for method in ("prompt", "prefix"):
        assert TrainConfig(method=method, **begins).init_run == "earlier"
    for method in ("p_tuning", "lora", "full"):
        with pytest.raises(UserError, match="only the methods prompt and prefix"):
            parse_config({"method": method, **begins})


def test_methods_that_know_no_start_are_compared_without_one():
    base = TrainConfig(init="from_run", init_run="earlier")
    arms = parse_compare(base, inits=["from_run", "text"], seeds=1, methods=["prompt", "lora", "prefix"]).arms()
    assert [(arm.method, arm.init, arm.init_run) for arm in arms] == [
        ("prompt", "from_run", "earlier"), ("prompt", "text", None), ("lora", "text", None),
        ("prefix", "from_run", "earlier"),
    ]
