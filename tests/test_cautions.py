"""Warnings before a run: each is said when there is cause, and not otherwise."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from softprompt_core import cautions
from softprompt_core.config import TrainConfig
from softprompt_core.data import load_task
from softprompt_core.models import embedding_table, load_model, load_tokenizer
from softprompt_core.tokenising import tokenise


@pytest.fixture
def tokens_of(tmp_path):
    """Tokens of a task with so many rows of each label."""

    def tokens_of(counts, *, config=None, repeat=False):
        lines = [
            f"parcel {'same' if repeat else f'{label} {i}'} came,{label}"
            for label, count in counts.items() for i in range(count)
        ]
        (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
        config = (config or TrainConfig()).with_changes(data=str(tmp_path / "rows.csv"))
        return tokenise(load_task(config), load_tokenizer("bundled"), config, context=512)

    return tokens_of


def said(warnings, *words):
    return any(all(word in warning for word in words) for warning in warnings)


def test_sound_data_and_settings_give_no_cause(tokens_of):
    tokens = tokens_of({"good": 200, "bad": 200})
    config = TrainConfig()
    assert cautions.about_data(config, tokens, context=512) == []
    assert cautions.about_settings(config, tokens) == []


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"good": 20, "bad": 20}, ["28 training rows"]),
        ({"good": 20, "bad": 20}, ["The test split has 6 rows", "16.7%"]),
        ({"good": 400, "bad": 40}, ["91% of the training rows", "'good'", "macro-F1"]),
        ({"good": 400, "bad": 300, "odd": 4}, ["Fewer than 5", "'odd' (2)"]),
        ({"Good": 200, "good": 200}, ["upper and lower case"]),
        ({"not good": 200, "not bad": 200}, ["begin with the same token", "'not bad', 'not good'"]),
        ({"not good": 200, "not bad": 200, "fine": 200}, ["begin with the same token", "'not bad', 'not good'"]),
    ],
)
def test_rows_and_labels_that_give_cause(tokens_of, counts, words):
    assert said(cautions.about_data(TrainConfig(), tokens_of(counts), context=512), *words)


def test_test_rows_that_stand_in_train_are_counted(tokens_of):
    tokens = tokens_of({"good": 200, "bad": 200}, repeat=True)
    assert said(cautions.about_data(TrainConfig(), tokens, context=512), "also stand in train", "120")


def test_rows_cut_or_left_out_are_counted(tokens_of):
    tokens = tokens_of({"good": 200, "bad": 200}, config=TrainConfig(max_tokens=22, template="Text: {text}\nLabel:"))
    tokens = dataclasses.replace(
        tokens, cut_rows=7, task=dataclasses.replace(tokens.task, dropped_rows=3)
    )
    found = cautions.about_data(TrainConfig(), tokens, context=512)
    assert said(found, "7 rows are too long")
    assert said(found, "3 rows have no text or no label")


def test_a_prompt_that_takes_most_of_what_the_model_reads(tokens_of):
    config = TrainConfig(virtual_tokens=300)
    tokens = tokens_of({"good": 200, "bad": 200}, config=config)
    assert said(cautions.about_data(config, tokens, context=512), "takes 300 of the 512", "leaves 212")
    assert not said(cautions.about_data(config, tokens, context=None), "takes")


def test_more_labels_than_virtual_tokens_for_class_labels(tokens_of):
    config = TrainConfig(init="class_labels", virtual_tokens=2)
    tokens = tokens_of(dict.fromkeys(("good", "bad", "odd"), 100))
    assert said(cautions.about_data(config, tokens, context=512), "3 labels and 2 virtual tokens")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 5}, ["learning rate 5", "far above", "diverge"]),
        ({"lr": 1e-5}, ["far below", "hardly move"]),
        ({"optimizer": "adafactor", "lr": 1e-4}, ["far below", "Adafactor moves every number"]),
        ({"method": "full", "lr": 0.03}, ["far above", "full"]),
        ({"weight_decay": 0.01, "lr": 0.3, "steps": 1_000}, ["Weight decay 0.01", "shrink the prompt 4"]),
        ({"weight_decay": 1.0, "lr": 0.3, "steps": 1_000}, ["to nothing"]),
        ({"weight_decay": 0.001, "optimizer": "adafactor", "lr": 0.3, "steps": 1_000}, ["prompt 2.72 times"]),
        ({"batch_size": 512}, ["512 rows", "there are 280"]),
        ({"steps": 10}, ["see only 29% of the training rows"]),
        ({"steps": 10_000}, ["286 times", "patience"]),
        ({"steps": 100, "eval_every": 200}, ["every 200 steps", "only the last prompt"]),
    ],
)
def test_settings_that_give_cause(tokens_of, changes, words):
    tokens = tokens_of({"good": 200, "bad": 200})
    assert said(cautions.about_settings(TrainConfig(**changes), tokens), *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.01, "lr": 0.03}, {"weight_decay": 1e-5, "optimizer": "adafactor", "lr": 0.3, "steps": 3_000},
        {"lr": 0.3}, {"optimizer": "adafactor", "lr": 0.3}, {"method": "lora", "weight_decay": 1.0, "lr": 0.002},
    ],
)
def test_settings_of_the_recipes_give_none(tokens_of, changes):
    found = cautions.about_settings(TrainConfig(patience=5, **changes), tokens_of({"good": 200, "bad": 200}))
    assert found == []


@pytest.mark.parametrize(("scale", "words"), [(1.0, None), (20.0, "20 times as long as"), (0.01, "100 times shorter")])
def test_a_start_off_the_scale_of_words_is_named(scale, words):
    table = embedding_table(load_model("bundled"))
    norms = table.norm(dim=1)
    start = table[(norms - norms.median()).abs().argsort()[:9]] * scale
    found = cautions.about_start(TrainConfig(init="peft_random"), start, table)
    assert (words is None and not found) or said(found, words, "peft_random")


def test_dtypes_that_cost_are_named(monkeypatch):
    base = dataclasses.replace(load_model("bundled"), dtype=torch.bfloat16)
    monkeypatch.setattr(cautions, "has_bfloat16", lambda device: False)
    assert said(cautions.about_device(TrainConfig(), base), "emulates bf16", "fp32")
    monkeypatch.setattr(cautions, "has_bfloat16", lambda device: True)
    assert cautions.about_device(TrainConfig(), base) == []
    half = dataclasses.replace(base, dtype=torch.float16)
    assert said(cautions.about_device(TrainConfig(), half), "fp16", "stops being a number")


def test_full_fine_tuning_says_what_it_takes(monkeypatch):
    base = load_model("bundled")
    assert said(cautions.about_device(TrainConfig(method="full"), base), "6,769,920 weights", "0.1 GB")
    monkeypatch.setattr("softprompt_core.copies.available_bytes", lambda device: 1_000_000)
    assert said(cautions.about_device(TrainConfig(method="full"), base), "are free")
