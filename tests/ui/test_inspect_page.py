"""The Inspect tab on the real app: table and map are linked, the slider moves points, hostile words stay text."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from softprompt_core.config import TrainConfig
from softprompt_core.inspection.vocabulary import vocabulary_of
from softprompt_core.models import BUNDLED_FOLDER, load_model
from softprompt_core.records import EndRecord, Record, Snapshot
from softprompt_core.ui import inspect_tab
from softprompt_core.ui.context import Context
from tests.ui.conftest import App

HOSTILE = "<img src=x onerror=window.hit=1>"
WORDS = ("␣service", "␣money", "␣water")
STEPS = [0, 10, 20]
PLOT = "document.querySelector('#inspect-view .sp-in-plot')"
TRACE = f"""name => {{
  const t = ({PLOT}._fullData ?? []).find(t => t.name === name);
  return {{x: Array.from(t.x ?? []), y: Array.from(t.y ?? []), text: Array.from(t.text ?? [])}};
}}"""
RANGE = f"() => [...{PLOT}._fullLayout.xaxis.range, ...{PLOT}._fullLayout.yaxis.range]"
PLACE = f"""n => {{
  const {{xaxis, yaxis}} = {PLOT}._fullLayout, box = {PLOT}.getBoundingClientRect();
  const t = {PLOT}._fullData.find(t => t.name === 'prompt');
  return [box.left + xaxis._offset + xaxis.l2p(t.x[n]), box.top + yaxis._offset + yaxis.l2p(t.y[n])];
}}"""


def planted(app: App, words: tuple[str, ...] = WORDS, *, model: str = "bundled") -> str:
    """The id of a run that has ended and whose prompt walked from noise to the rows of these words."""
    vocabulary = vocabulary_of(load_model(model, device="cpu"))
    goal = vocabulary.table[[vocabulary.texts.index(word) for word in words]]
    start = np.random.default_rng(0).normal(0, 0.3, goal.shape)
    run_id = app.store.create(TrainConfig(model=model, virtual_tokens=len(words), steps=20), status="running")
    way = [start + (goal - start) * step / STEPS[-1] for step in STEPS]
    records: list[Record] = [
        Snapshot(run_id, step, prompt.astype(np.float32)) for step, prompt in zip(STEPS, way, strict=True)
    ]
    result = {"eval_accuracy": 0.75, "baselines": {"majority": {"accuracy": 0.5}}}
    ending: list[Record] = [Snapshot(run_id, 20, goal, "selected"), EndRecord(run_id, "done", "", result)]
    app.store.append(records + ending)
    return run_id


def open_newest(page: Page, app: App) -> None:
    page.goto(app.url)
    page.get_by_role("tab", name="Inspect", exact=True).click()
    expect(page.locator("#inspect-view .sp-in-plot .main-svg").first).to_be_visible()



def test_row_and_map_select_the_same_token_and_light_its_neighbours(page: Page, app: App) -> None:
    planted(app)
    open_newest(page, app)
    for index, word in enumerate(WORDS):
        expect(page.locator(f"#inspect-view tr[data-index='{index}'] .sp-in-best b")).to_have_text(word)
        expect(page.locator(f"#inspect-view tr[data-index='{index}'] .sp-in-best span")).to_have_text("1.00")
        expect(page.locator(f"#inspect-view tr[data-index='{index}'] .sp-in-more > span")).to_have_count(9)
    expect(page.locator("#inspect-view .sp-in-line")).to_have_text(
        "Test accuracy 75.0 %, against the majority class 50.0 %."
    )
    expect(page.locator("#inspect-view .sp-in-caption")).to_contain_text("of the vocabulary’s variance")
    listed = str(int(vocabulary_of(load_model("bundled")).is_listed.sum()))
    expect(page.locator("#inspect-view .sp-in-stage canvas")).to_have_attribute("data-drawn", listed)
    assert page.evaluate(TRACE, "lit")["x"] == []

    page.locator("#inspect-view tr[data-index='1'] button").press("Enter")
    expect(page.locator("#inspect-view tr[data-index='1']")).to_have_class("is-picked")
    page.wait_for_function(f"({TRACE})('lit').text.length === 10")
    assert page.evaluate(TRACE, "lit")["text"][0] == WORDS[1]

    page.locator("#inspect-view tr[data-index='1'] button").press("ArrowDown")
    expect(page.locator("#inspect-view tr[data-index='2'] button")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function(f"({TRACE})('lit').text[0] === '{WORDS[2]}'")

    page.locator("#inspect-view .sp-in-stage").scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(PLACE, 0))
    expect(page.locator("#inspect-view .hoverlayer")).to_contain_text("virtual token 1")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#inspect-view tr[data-index='0'] button")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function(f"({TRACE})('lit').text[0] === '{WORDS[0]}'")


def test_slider_moves_the_points_on_fixed_axes_and_keeps_zoom(page: Page, app: App) -> None:
    planted(app)
    open_newest(page, app)
    page.locator("#inspect-view").get_by_role("button", name="Zoom in").click()
    zoomed = page.evaluate(RANGE)
    end = page.evaluate(TRACE, "prompt")
    slider = page.get_by_role("slider", name="Training step")
    slider.focus()
    slider.press("Home")
    expect(page.locator("#inspect-view .sp-in-time output")).to_contain_text("step 0 of 20")
    page.wait_for_function(f"x => ({TRACE})('prompt').x[0] !== x", arg=end["x"][0])
    start = page.evaluate(TRACE, "prompt")
    assert page.evaluate(RANGE) == zoomed
    page.locator("#inspect-view").get_by_role("button", name="Play training").click()
    expect(page.locator("#inspect-view .sp-in-time output")).to_contain_text("step 20 of 20 · the table’s prompt")
    page.wait_for_function(f"x => ({TRACE})('prompt').x[0] === x", arg=end["x"][0])
    assert page.evaluate(RANGE) == zoomed
    ways = page.evaluate(TRACE, "ways")
    assert ways["x"][0] == start["x"][0]
    assert ways["x"][2] == end["x"][0]
    page.get_by_role("radio", name="distance").check()
    expect(page.locator("#inspect-view .sp-in-measure")).to_contain_text("by distance")
    assert page.evaluate(RANGE) == zoomed


def test_distances_are_shown_as_distances(page: Page, app: App) -> None:
    planted(app)
    open_newest(page, app)
    page.locator("#inspect-metric").get_by_text("distance").click()
    expect(page.locator("#inspect-view .sp-in-measure")).to_contain_text("by distance")
    shown = [float(text) for text in page.locator(".sp-in-tokens .sp-in-best span").all_inner_texts()]
    assert len(shown) == len(WORDS)
    assert min(shown) >= 0


def test_a_run_opened_from_the_list_is_the_one_shown(page: Page, app: App) -> None:
    older, newer = planted(app, WORDS[:2]), planted(app, WORDS[1:])
    page.goto(app.url)
    title = page.locator("#inspect-view h2")
    rows = page.locator("#inspect-view tbody tr .sp-in-best b")
    for run_id, words in ((older, WORDS[:2]), (newer, WORDS[1:]), (older, WORDS[:2])):
        page.get_by_role("tab", name="Runs", exact=True).click()
        place = [info.run_id for info in app.store.runs()].index(run_id)
        page.locator("#runs-table").get_by_test_id(f"cell-{place}-1").click()
        page.locator("#runs-inspect").click()
        expect(title).to_be_visible()
        expect(rows).to_have_text(list(words))
        expect(page.locator("#inspect-run input")).to_have_value(re.compile(run_id[-4:]))


def test_search_finds_a_word_and_files_hold_the_reading(page: Page, app: App, tmp_path: Path) -> None:
    run_id = planted(app)
    open_newest(page, app)
    page.get_by_placeholder("Find a word").fill("coffee")
    expect(page.locator("#inspect-view .sp-in-matches button").first).to_have_text("␣coffee")
    page.wait_for_function(f"({TRACE})('found').text[0] === '␣coffee'")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the table as CSV").click()
    waiting.value.save_as(tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8")))
    assert [cells["word_1"] for cells in rows] == list(WORDS)
    assert waiting.value.suggested_filename == f"{run_id}-tokens.csv"
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the whole inspection as JSON").click()
    waiting.value.save_as(tmp_path / "t.json")
    document = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert [token["neighbours"][0]["token"] for token in document["tokens"]] == list(WORDS)


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundled model with a vocabulary entry that is markup with a script."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(BUNDLED_FOLDER, folder)
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    pieces = HOSTILE.replace(" ", "Ġ")
    chain = [pieces[:end] for end in range(2, len(pieces) + 1)]
    model = settings["model"]
    freed = {"".join(merge) for merge in model["merges"][-len(chain):]}
    ids = sorted(model["vocab"].pop(entry) for entry in freed)
    model["vocab"] |= dict(zip(chain, ids, strict=True))
    new = [[entry[:-1], entry[-1]] for entry in chain]
    model["merges"] = new + model["merges"][:-len(chain)]
    settings["pre_tokenizer"]["use_regex"] = False
    path.write_text(json.dumps(settings), encoding="utf-8")
    return str(folder)


def test_hostile_words_and_names_are_shown_verbatim_everywhere(page: Page, app: App, hostile_model: str) -> None:
    name = "<img src=x onerror=window.hit=2> & co"
    app.store.rename(planted(app, (HOSTILE, "␣money", "&"), model=hostile_model), name)
    open_newest(page, app)
    expect(page.locator("#inspect-view h2")).to_have_text(name)
    expect(page.locator("#inspect-view tr[data-index='0'] .sp-in-best b")).to_have_text(HOSTILE)
    page.locator("#inspect-view tr[data-index='0'] button").click()
    page.wait_for_function(f"({TRACE})('lit').text.length === 10")
    expect(page.locator("#inspect-view .sp-in-plot").get_by_text(HOSTILE, exact=True).first).to_be_visible()
    page.get_by_placeholder("Find a word").fill("<img src=x on")
    expect(page.locator("#inspect-view .sp-in-matches button").first).to_be_visible()
    page.locator("#inspect-view .sp-in-stage").scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(PLACE, 2))
    expect(page.locator("#inspect-view .hoverlayer")).to_contain_text("<img src=x")
    assert page.evaluate("window.hit") is None
    assert page.locator("#inspect-view img").count() == 0


def test_a_run_in_training_shows_its_newest_prompt_by_itself(page: Page, app: App) -> None:
    run_id = app.store.create(TrainConfig(virtual_tokens=1, steps=20), status="running")
    table = vocabulary_of(load_model("bundled", device="cpu"))
    words = [table.table[[table.texts.index(word)]] for word in WORDS]
    app.store.append([Snapshot(run_id, 0, words[0]), Snapshot(run_id, 5, words[1], "live")])
    open_newest(page, app)
    best = page.locator("#inspect-view tr[data-index='0'] .sp-in-best b")
    expect(best).to_have_text(WORDS[1])
    expect(page.locator("#inspect-view tr[data-index='0'] .c-start")).to_contain_text("new")
    app.store.append([Snapshot(run_id, 9, words[2], "live")])
    expect(best).to_have_text(WORDS[2])
    app.store.append([EndRecord(run_id, "stopped", "You stopped it.")])
    expect(page.locator("#inspect-view .sp-in-line")).to_contain_text("You stopped it.")


# ------------------------------------------------- without a browser


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., dict[str, object]]:
    from softprompt_core.store import Store

    reading = inspect_tab.sources(Context(Store(tmp_path), runner=None))[0]  # type: ignore[arg-type]
    return lambda **asked: json.loads(reading(asked))


def test_nothing_to_read_is_said_and_a_run_that_is_gone_is_named(ask: Callable[..., dict[str, object]]) -> None:
    assert ask() == {"empty": "No prompt to read yet"}
    assert "There is no run 'gone'" in str(ask(run="gone")["error"])


@pytest.mark.parametrize("asked", [{"run": "a", "metric": "sine"}, {"run": "a", "top": 10_000}, {"eval": "1"}])
def test_malformed_questions_are_refused_in_words(
    ask: Callable[..., dict[str, object]], asked: dict[str, object]
) -> None:
    assert "Reload the page" in str(ask(**asked)["error"])
