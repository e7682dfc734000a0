"""The Compare tab on the real app: one click, curves and panes that agree with the store, nothing lost on reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from softprompt_core.config import METHOD_LR, TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.models import BUNDLED_FOLDER
from softprompt_core.records import EndRecord, EvalRecord, StepRecord
from softprompt_core.store import Store
from softprompt_core.ui import compare_tab
from softprompt_core.ui.context import Context
from tests.ui.conftest import App

INITS = ["random", "text", "sampled_vocab"]
WIDTH = json.loads((BUNDLED_FOLDER / "config.json").read_text(encoding="utf-8"))["hidden_size"]
CURVES = """() => (document.querySelector('#compare-chart .js-plotly-plot')?._fullData ?? [])
  .filter(t => t.mode === 'lines')
  .map(t => ({name: t.name, dash: t.line.dash, color: t.line.color, x: Array.from(t.x)}))"""
MAPS = """() => [...document.querySelectorAll('#compare-view .sp-in-plot')].map(p => ({
  range: JSON.stringify([p._fullLayout.xaxis.range, p._fullLayout.yaxis.range]), x: Array.from(p._fullData[0].x)}))"""


def open_compare(page: Page, app: App) -> None:
    page.goto(app.url)
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#compare-go")).to_be_visible()


def test_one_click_trains_all_starts_together_and_shows_them_side_by_side(page: Page, app: App) -> None:
    open_compare(page, app)
    page.locator("#compare-steps input").fill("8")
    page.locator("#compare-virtual_tokens input").fill("3")
    page.locator("#compare-go").click()
    panes = page.locator("#compare-view .sp-cmp-pane")
    expect(panes).to_have_count(3)
    expect(page.locator("#compare-view .sp-cmp-verdict")).to_be_visible(timeout=120_000)

    group_id = app.store.runs()[0].group_id
    assert group_id
    infos = app.store.group(group_id)
    assert [info.config["init"] for info in infos] == INITS
    assert {info.status for info in infos} == {"done"}
    assert {info.config["seed"] for info in infos} == {0}
    for info in infos:
        pane = page.locator(f"#compare-view .sp-cmp-pane[data-arm='{info.config['init'].replace('_', ' ')}']")
        expect(pane.locator(".sp-cmp-score b")).to_have_text(f"{100 * info.result['eval_accuracy']:.1f} %")
        expect(pane.locator(".sp-cmp-line")).to_contain_text("against the majority class")
        expect(pane.locator(".sp-cmp-words li")).to_have_count(3)
    rows = page.locator("#compare-view .sp-cmp-verdict tbody tr")
    expect(rows).to_have_count(6)       # and majority, hand-written prompt, no prompt
    expect(rows.first).to_contain_text(f"{3 * WIDTH:,}")
    expect(rows.first.locator(".dot")).to_have_count(1)
    expect(page.locator("#compare-view .sp-cmp-verdict p")).to_contain_text("Mean test accuracy")

    page.wait_for_function(f"({CURVES})().length === 3 && ({CURVES})().every(c => c.x.at(-1) === 8)")
    curves = page.evaluate(CURVES)
    assert all(curve["x"] == list(range(1, 9)) for curve in curves)
    assert len({curve["dash"] for curve in curves}) == len({curve["color"] for curve in curves}) == 3
    maps = page.evaluate(MAPS)
    assert len({found["range"] for found in maps}) == 1
    assert all(len(found["x"]) == 3 for found in maps)
    assert len({tuple(found["x"]) for found in maps}) == 3

    page.reload()
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(panes).to_have_count(3)
    expect(page.locator("#compare-view .sp-cmp-verdict")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")


def test_seeds_of_an_arm_share_its_colour_and_differ_by_dash(page: Page, app: App) -> None:
    for init in ("random", "text"):
        for seed in (0, 1):
            run_id = app.store.create(TrainConfig(init=init, seed=seed, steps=5), group_id="seeds", status="running")  # type: ignore[arg-type]
            app.store.append([StepRecord(run_id, i, 0.1, 2.0 / i, 0.01, 1.0, 10, 0.1 * i) for i in range(1, 6)])
            app.store.append([EndRecord(run_id, "stopped")])
    open_compare(page, app)
    page.wait_for_function(f"({CURVES})().length === 4")
    curves = page.evaluate(CURVES)
    assert [curve["name"] for curve in curves] == [f"{i} · seed {s}" for i in ("random", "text") for s in (0, 1)]
    assert curves[0]["color"] == curves[1]["color"] != curves[2]["color"] == curves[3]["color"]
    assert curves[0]["dash"] == curves[2]["dash"] != curves[1]["dash"] == curves[3]["dash"]


def test_stop_all_stops_the_group_and_says_so(page: Page, app: App) -> None:
    open_compare(page, app)
    page.locator("#compare-steps input").fill("5000")
    page.locator("#compare-virtual_tokens input").fill("2")
    page.get_by_role("checkbox", name="sampled vocab").uncheck()
    page.locator("#compare-go").click()
    expect(page.locator("#compare-view .sp-in-pill", has_text="of 5000")).to_have_count(2)
    page.locator("#compare-stop").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("Stopping 2 runs")
    expect(page.locator("#compare-view .sp-in-pill", has_text="stopped")).to_have_count(2)


def test_bad_numbers_are_refused_together_and_nothing_starts(page: Page, app: App) -> None:
    before = len(app.store.runs())
    open_compare(page, app)
    page.locator("#compare-steps input").fill("0")
    page.locator("#compare-lr input").fill("-1")
    page.locator("#compare-go").click()
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("steps")
    expect(toast).to_contain_text("learning rate")
    assert len(app.store.runs()) == before


# ------------------------------------------------- without a browser


def two_runs(store: Store) -> list[str]:
    return [store.create(TrainConfig(init=init), group_id="g", status="running") for init in ("random", "text")]


def test_news_are_empty_when_nothing_has_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = two_runs(store)
    context = Context(store, runner=None)  # type: ignore[arg-type]
    news = json.loads(compare_tab.group_news(context, "g", {}))
    assert news["order"] == [first, second]
    assert news["summary"] is None
    seen = {run["id"]: run["stamp"] for run in news["runs"]}
    assert compare_tab.group_news(context, "g", seen) == ""
    store.append([
        StepRecord(second, 1, 0.1, 2.0, 0.01, 1.0, 10, 0.1), EvalRecord(second, 1, "validation", 1.0, 0.6, 0.6)
    ])
    changed = json.loads(compare_tab.group_news(context, "g", seen))["runs"]
    assert [(run["id"], run["step"], run["validation"]) for run in changed] == [(second, 1, 0.6)]


def test_methods_are_compared_at_their_own_rates_beside_a_few_examples() -> None:
    values = ["complaints", "bundled", 10, 5, 0.05]
    found = compare_tab.method_arms(values, methods=["full", "prompt", "lora"], seeds=2)
    assert [(c.method, c.seed) for c in found] == [
        (method, seed) for method in ("prompt", "lora", "full") for seed in (0, 1)
    ]
    assert [c.lr for c in found[::2]] == [0.05, METHOD_LR["lora"], METHOD_LR["full"]]
    assert {c.shots for c in found} == {compare_tab.SHOTS}
    with pytest.raises(UserError, match="two methods or more"):
        compare_tab.method_arms(values, methods=["lora"], seeds=3)


def test_run_without_virtual_tokens_says_so_in_its_pane(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for method in ("prompt", "lora"):
        store.create(TrainConfig(method=method), group_id="g", status="running")  # type: ignore[arg-type]
    context = Context(store, runner=None)  # type: ignore[arg-type]
    prompt, lora = json.loads(compare_tab.group_news(context, "g", {}))["runs"]
    assert (prompt["arm"], prompt["no_tokens"]) == ("prompt tuning", None)
    assert lora["arm"] == "LoRA"
    assert "no virtual tokens" in lora["no_tokens"]


def test_one_run_is_no_comparison_and_no_init_is_none() -> None:
    values = ["complaints", "bundled", 10, 5, 0.03]
    assert len(compare_tab.arms(values, inits=["text"], seeds=3)) == 3
    with pytest.raises(UserError, match="One run is no comparison"):
        compare_tab.arms(values, inits=["text"], seeds=1)
    with pytest.raises(UserError, match="Tick at least one"):
        compare_tab.arms(values, inits=[], seeds=1)
    with pytest.raises(UserError, match="seeds"):
        compare_tab.arms(values, inits=["text", "random"], seeds=0)


def test_newest_comparison_at_work_comes_before_a_newer_one_that_has_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    two_runs(store)
    store.create(TrainConfig(), group_id="later", status="done")
    context = Context(store, runner=None)  # type: ignore[arg-type]
    found = compare_tab.groups(context)
    assert [group_id for group_id, _ in found] == ["later", "g"]
    assert compare_tab.newest(found) == "g"
