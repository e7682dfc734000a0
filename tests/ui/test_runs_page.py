"""The Runs tab and the HTTP endpoints: what can be done with runs that exist."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from softprompt_core import operations
from softprompt_core.config import TrainConfig
from softprompt_core.models import BUNDLED_FOLDER
from softprompt_core.records import EndRecord, Snapshot, StartRecord, StepRecord
from softprompt_core.ui.runs_tab import rows
from tests.ui.conftest import App

CONFIG = TrainConfig(steps=6, virtual_tokens=3, batch_size=4)
WIDTH = json.loads((BUNDLED_FOLDER / "config.json").read_text(encoding="utf-8"))["hidden_size"]


@pytest.fixture
def done(app: App) -> str:
    """The id of a run that has ended, written as training writes it, so that no test waits for one."""
    run_id = app.store.create(CONFIG, status="running")
    prompt = np.random.default_rng(0).normal(0, 0.2, (3, WIDTH)).astype(np.float32)
    facts = {"labels": ["complaint", "no complaint"], "text_column": "text", "label_column": "label"}
    app.store.append([
        StartRecord(run_id, facts),
        Snapshot(run_id, 0, prompt),
        *(StepRecord(run_id, i, 0.1 * i, 3.0 / i, 0.01, 1.0, 200, 0.2 * i) for i in range(1, 7)),
        Snapshot(run_id, 6, prompt + 0.01, kind="selected"),
        EndRecord(run_id, "done", "", {"steps": 6, "eval_accuracy": 0.75, "test_rows": 200, "device": "cpu"}),
    ])
    return run_id


def choose(page: Page, app: App, run_id: str) -> None:
    """Opens the Runs tab and picks a run in the table."""
    page.goto(app.url)
    page.get_by_role("tab", name="Runs", exact=True).click()
    row = [info.run_id for info in app.store.runs()].index(run_id)
    page.locator("#runs-table").get_by_test_id(f"cell-{row}-1").click()
    expect(page.locator("#runs-name input, #runs-name textarea")).to_have_value(app.store.run(run_id).name)


def test_run_is_renamed_and_the_table_says_so(page: Page, app: App, done: str) -> None:
    choose(page, app, done)
    page.locator("#runs-name input, #runs-name textarea").fill("the <b>*best* one")
    page.locator("#runs-rename").click()
    expect(page.locator("#runs-about")).to_contain_text("the <b>*best* one")
    expect(page.locator("#runs-table").get_by_text("the <b>*best* one")).not_to_have_count(0)
    assert app.store.run(done).name == "the <b>*best* one"
    page.locator("#runs-name input, #runs-name textarea").fill("../up")
    page.locator("#runs-rename").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("plain name")
    assert app.store.run(done).name == "the <b>*best* one"


def test_run_is_deleted_only_after_it_was_asked(page: Page, app: App, done: str) -> None:
    choose(page, app, done)
    page.locator("#runs-delete").click()
    page.locator("#runs-keep").click()
    expect(page.locator("#runs-sure")).to_be_hidden()
    assert app.store.run(done)
    page.locator("#runs-delete").click()
    page.locator("#runs-sure").click()
    expect(page.locator("#runs-actions")).to_be_hidden()
    assert done not in [info.run_id for info in app.store.runs()]
    assert not (app.store.root / done).exists()


def test_download_is_a_folder_for_peft(page: Page, app: App, done: str, tmp_path: Path) -> None:
    choose(page, app, done)
    with page.expect_download() as waiting:
        page.locator("#runs-download").click()
    path = tmp_path / "run.zip"
    waiting.value.save_as(path)
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).name for name in archive.namelist()}
        config = json.loads(archive.read(f"{done}/adapter_config.json"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", 3)


def test_command_repeats_the_run_and_buttons_lead_to_the_other_tabs(page: Page, app: App, done: str) -> None:
    choose(page, app, done)
    command = page.locator("#runs-command textarea").input_value()
    assert shlex.split(command) == [
        "softprompt", "train", "--data", "complaints", "--virtual-tokens", "3", "--steps", "6", "--batch-size", "4",
    ]
    page.locator("#runs-show").click()
    expect(page.locator("#train-chart")).to_be_visible()
    expect(page.locator("#train-chart .sp-tiles")).to_contain_text("6 / 6")


def test_an_imported_prompt_has_no_command_that_would_repeat_it(page: Page, app: App, tmp_path: Path) -> None:
    matrix = tmp_path / "mine.npy"
    np.save(matrix, np.random.default_rng(1).normal(0, 0.2, (3, WIDTH)).astype(np.float32))
    choose(page, app, operations.import_folder(app.store, matrix, model="bundled"))
    expect(page.locator("#runs-command")).to_be_hidden()
    expect(page.locator("#runs-download")).to_be_enabled()


def test_stopped_run_is_resumed_and_a_finished_one_trained_on(page: Page, app: App, done: str) -> None:
    broken = app.store.create(CONFIG, status="running")
    app.store.append([EndRecord(broken, "interrupted", "The program ended before the run did.")])
    choose(page, app, broken)
    expect(page.locator("#runs-fork")).to_be_hidden()       # it has no prompt yet
    page.locator("#runs-resume").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("goes on")
    assert app.wait_for_end(broken).status == "done"
    expect(page.locator("#runs-resume")).to_be_hidden()

    row = [info.run_id for info in app.store.runs()].index(done)
    page.locator("#runs-table").get_by_test_id(f"cell-{row}-1").click()
    expect(page.locator("#runs-resume")).to_be_hidden()
    page.locator("#runs-fork").click()
    expect(page.locator("#train-init_run input")).to_have_value(re.compile(done[-4:]))
    expect(page.locator("#train-virtual_tokens input")).to_have_value("3")


def test_rows_name_method_and_start_only_where_there_is_one(app: App, done: str) -> None:
    lora = app.store.create(CONFIG.with_changes(method="lora"), status="done")
    found = {row[-1]: row for row in rows([app.store.run(done), app.store.run(lora)])}
    assert found[done][5:8] == ["prompt tuning", "text", "3"]
    assert found[lora][5:8] == ["LoRA", "", ""]


def test_run_started_and_stopped_over_http_is_on_the_page(page: Page, app: App) -> None:
    run_id = app.call("/train", {"steps": 5_000, "virtual_tokens": 3, "name": "from afar"})["run_id"]
    page.goto(app.url)
    expect(page.locator("#train-title")).to_contain_text("from afar")
    assert app.call("/stop", run_id) == {"run_id": run_id, "stopping": True}
    stopped = app.wait_for_end(run_id)
    assert stopped.status == "stopped"
    reached = stopped.step
    assert app.call("/resume", run_id, reached + 2) == {"run_id": run_id}
    ended = app.wait_for_end(run_id)
    assert (ended.status, ended.step) == ("done", reached + 2)


def test_comparison_over_http_is_a_group_on_the_compare_tab(page: Page, app: App) -> None:
    answer = app.call("/compare", {"steps": 2, "virtual_tokens": 2}, ["text"], 1, ["prompt", "lora"])
    infos = [app.wait_for_end(run_id) for run_id in answer["run_ids"]]
    assert {info.group_id for info in infos} == {answer["group_id"]}
    assert [(info.config["method"], info.status) for info in infos] == [("prompt", "done"), ("lora", "done")]
    page.goto(app.url)
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#compare-view .sp-cmp-verdict tbody tr").nth(1)).to_contain_text("LoRA")
    expect(page.locator("#compare-view [data-arm='LoRA']")).to_contain_text("no virtual tokens")
    expect(page.locator("#compare-view [data-arm='prompt tuning'] .sp-cmp-words li")).to_have_count(2)
    page.locator("#compare-view .sp-cmp-verdict").scroll_into_view_if_needed()
    page.get_by_role("tab", name="Runs", exact=True).click()
    row = [info.run_id for info in app.store.runs()].index(answer["run_ids"][1])
    page.locator("#runs-table").get_by_test_id(f"cell-{row}-1").click()
    expect(page.locator("#runs-inspect")).to_be_visible()
    page.locator("#runs-inspect").click()
    expect(page.locator("#inspect-view .sp-in-note")).to_contain_text("no virtual tokens")


def test_endpoints_answer_and_refuse_in_words(app: App, done: str) -> None:
    assert app.call("/status", done)["result"]["steps"] == 6
    found = app.call("/metrics", done, 2)
    assert [step["step"] for step in found["steps"]] == [3, 4, 5, 6]
    assert done in [run["run_id"] for run in app.call("/runs")]
    assert len(app.call("/inspect", done, 3)["tokens"]) == 3
    rows = app.call("/predict", done, ["My parcel never came.", "Thank you so much!"])
    assert all(row["label"] in ("complaint", "no complaint") for row in rows)
    with zipfile.ZipFile(app.call("/export", done)) as archive:
        assert f"{done}/adapter_config.json" in archive.namelist()
    checked = app.call("/preflight", {"steps": 4, "lr": 5.0})
    assert checked["steps"] == 4
    assert any("learning rate" in warning for warning in checked["warnings"])
    for endpoint, arguments, words in (
        ("/train", [{"steps": 0}], "steps: 0 was given"),
        ("/train", [{"stepz": 5}], "unknown settings: stepz"),
        ("/train", ["steps"], "not an object"),
        ("/status", ["../../etc"], "There is no run"),
        ("/predict", [done, []], "one or more texts"),
        ("/resume", [done], "is done"),
        ("/compare", [{}, ["text"], 0], "seeds"),
        ("/compare", [{}, ["text"], 1, ["adapter"]], "methods"),
        ("/preflight", [{"steps": 0}], "steps: 0 was given"),
    ):
        with pytest.raises(Exception, match=words):
            app.call(endpoint, *arguments)
