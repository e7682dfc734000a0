"""What can be done with a finished run: figures agree with training, and export → import is the identity."""

from __future__ import annotations

import argparse
import json
import shlex

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from softprompt_core import cli, operations
from softprompt_core.config import TrainConfig, parse_config
from softprompt_core.errors import UserError
from softprompt_core.models import BUNDLED_FOLDER
from softprompt_core.records import EndRecord
from softprompt_core.store import Store

TEXTS = ["The parcel never arrived and nobody answers the phone.", "When do you open on Sunday?"]


@pytest.fixture
def elsewhere(tmp_path) -> Store:
    """An empty runs folder of another machine."""
    return Store(tmp_path / "elsewhere")


def test_test_figures_equal_those_that_training_reported(trained):
    found, said = operations.evaluate_run(trained.store, trained.run_id), trained.outcome.document
    assert found["rows"] == said["test_rows"] == 200
    assert found["accuracy"] == said["eval_accuracy"]
    assert found["macro_f1"] == said["eval_macro_f1"]
    assert found["loss"] == pytest.approx(said["eval_loss"], rel=1e-5)


def test_shares_sum_to_one_and_the_label_has_the_largest(trained):
    rows = operations.text_rows(trained.store, trained.run_id, TEXTS)
    for row in operations.predict_with_run(trained.store, trained.run_id, rows):
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["label"] == max(row["scores"], key=row["scores"].get)
        assert set(row["scores"]) == {"complaint", "no complaint"}


def test_score_of_a_text_does_not_depend_on_its_neighbours(trained):
    def scores(texts):
        rows = operations.text_rows(trained.store, trained.run_id, texts)
        return operations.predict_with_run(trained.store, trained.run_id, rows)[0]["scores"]

    alone, in_company = scores(TEXTS[:1]), scores([TEXTS[0], "short", "a much longer text than the others " * 8])
    assert alone == pytest.approx(in_company, abs=1e-3)


@pytest.mark.parametrize("texts", [[], [" "], ["fine", ""], [3]])
def test_blank_text_is_refused(trained, texts):
    with pytest.raises(UserError, match="blank or missing"):
        operations.text_rows(trained.store, trained.run_id, texts)


@pytest.mark.parametrize("count", [0, operations.MOST_TEXTS + 1])
def test_number_of_texts_has_a_limit(trained, count):
    with pytest.raises(UserError, match=f"{count} texts .* 1 to {operations.MOST_TEXTS}"):
        operations.predict_with_run(trained.store, trained.run_id, [{"text": "a"}] * count)


def test_rows_without_the_text_column_are_refused_with_its_name(trained):
    with pytest.raises(UserError, match=r"column 'text'.*'body'"):
        operations.predict_with_run(trained.store, trained.run_id, [{"body": "hello"}])


def test_run_without_labels_cannot_classify_and_says_so(elsewhere):
    run_id = elsewhere.create(TrainConfig())
    with pytest.raises(UserError, match="no labels"):
        operations.labels_of(elsewhere, run_id)
    with pytest.raises(UserError, match="no run 'nope'"):
        operations.labels_of(elsewhere, "nope")


def test_start_is_the_first_snapshot(trained):
    steps, prompts = trained.store.snapshots(trained.run_id)
    assert steps[0] == 0
    assert np.array_equal(operations.start_of(trained.store, trained.run_id), prompts[0])


# -------------------------------------------------------------- out and in


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "prompt"
    return operations.export_run(trained.store, trained.run_id, folder)


def test_peft_gives_the_logits_of_plain_concatenation(trained, exported):
    prompt = torch.from_numpy(trained.store.prompt(trained.run_id))
    plain = AutoModelForCausalLM.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 900, 77, 4000, 12]])
    with torch.no_grad():
        words = plain.get_input_embeddings()(ids)
        expected = plain(inputs_embeds=torch.cat([prompt[None], words], dim=1)).logits
        found = PeftModel.from_pretrained(plain, str(exported)).eval()(input_ids=ids).logits
    assert torch.allclose(found[:, -5:], expected[:, -5:], atol=1e-4, rtol=0)


def test_exported_folder_says_labels_and_template(trained, exported):
    facts = json.loads((exported / "softprompt.json").read_text(encoding="utf-8"))
    assert facts["labels"] == ["complaint", "no complaint"]
    assert facts["template"] == TrainConfig().template


def test_imported_run_is_the_exported_one(trained, exported, elsewhere):
    run_id = operations.import_folder(elsewhere, exported, name="back again")
    assert elsewhere.prompt(run_id).tobytes() == trained.store.prompt(trained.run_id).tobytes()
    assert elsewhere.run(run_id).status == "done"
    assert elsewhere.run(run_id).name == "back again"
    assert elsewhere.config(run_id) == trained.store.config(trained.run_id).with_changes(name="back again")


def test_imported_run_predicts_and_tests_like_the_exported_one(trained, exported, elsewhere):
    run_id = operations.import_folder(elsewhere, exported)
    results = [
        operations.predict_with_run(store, name, operations.text_rows(store, name, TEXTS))
        for store, name in ((trained.store, trained.run_id), (elsewhere, run_id))
    ]
    assert results[0] == results[1]
    assert operations.evaluate_run(elsewhere, run_id)["accuracy"] == trained.outcome.document["eval_accuracy"]


def test_matrix_from_elsewhere_becomes_a_run_that_can_be_inspected(elsewhere, tmp_path):
    path = tmp_path / "prompt.npy"
    np.save(path, np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32))
    run_id = operations.import_folder(elsewhere, path, model="bundled")
    assert len(operations.inspect_run(elsewhere, run_id, top=2)["tokens"]) == 3
    with pytest.raises(UserError, match="no labels"):
        operations.text_rows(elsewhere, run_id, TEXTS)


@pytest.mark.parametrize(
    ("shape", "model", "words"),
    [((3, 256), None, "--model"), ((3, 100), "bundled", "100 wide"), ((600, 256), "bundled", "600")],
)
def test_import_that_does_not_fit_leaves_no_run(elsewhere, tmp_path, shape, model, words):
    path = tmp_path / "prompt.npy"
    np.save(path, np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=words):
        operations.import_folder(elsewhere, path, model=model)
    assert elsewhere.runs() == []


def test_export_overwrites_nothing(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UserError, match="nothing is overwritten"):
            operations.export_run(trained.store, trained.run_id, target)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_run_without_a_prompt_is_not_exported(elsewhere, tmp_path):
    run_id = elsewhere.create(TrainConfig())
    elsewhere.append([EndRecord(run_id, "failed", "because")])
    with pytest.raises(UserError, match="no prompt"):
        operations.export_run(elsewhere, run_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------ reproduction


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": "my mail.csv", "name": "it's mine", "steps": 7, "lr": 0.1 + 0.2},
        {"method": "lora"}, {"method": "full", "lr": 0.03}, {"lr": 0.002},
        {"template": "Q: {text}\nA:", "init": "random", "seed": 5, "eval_every": 3, "device": "cpu"},
        {"init_text": "Is it a complaint? $HOME `x` \"y\" ü", "text_column": "the text"},
    ],
)
def test_command_of_a_run_gives_its_settings_again(changes):
    config = TrainConfig(**changes)
    words = shlex.split(operations.command_for(config))
    assert words[:2] == ["softprompt", "train"]
    options: argparse.Namespace = cli._parser().parse_args(words[1:])
    assert parse_config(cli._given(options)) == config


def test_local_paths_are_kept_in_full(tmp_path, monkeypatch, command):
    (tmp_path / "mail.csv").write_text("text,label\n" + "late,bad\nearly,good\n" * 20)
    monkeypatch.chdir(tmp_path)
    assert command("train", "--data", "mail.csv", "--steps", 1, "--runs-dir", "runs").code == 0
    (info,) = Store(tmp_path / "runs").runs()
    assert info.config["data"] == str(tmp_path / "mail.csv")
    assert info.config["model"] == "bundled"


def test_changed_data_is_neither_tested_nor_trained_on(tmp_path, command):
    data, runs = tmp_path / "mail.csv", tmp_path / "runs"
    data.write_text("text,label\n" + "late,bad\nearly,good\n" * 20)
    assert command("train", "--data", data, "--steps", 1, "--runs-dir", runs).code == 0
    (info,) = Store(runs).runs()
    data.write_text("text,label\n" + "soon,bad\nnever,good\n" * 20)
    for given in (("eval", info.run_id), ("resume", info.run_id, "--steps", 3)):
        refused = command(*given, "--runs-dir", runs)
        assert (refused.code, "no longer what it was trained on" in refused.stderr) == (2, True)
    assert Store(runs).run(info.run_id).status == "done"


def test_another_model_in_the_place_of_the_runs_own_is_refused(trained, monkeypatch):
    monkeypatch.setattr(Store, "facts", lambda store, run_id: {"model_revision": "another"})
    with pytest.raises(UserError, match="is not the one that run"):
        operations.base_of(trained.store, trained.run_id)
