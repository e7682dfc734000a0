"""The Compare tab on the real app: one click, curves and panes that agree with the store, nothing lost on reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.records import EvalRecord, StepRecord
from softprompt_core.store import Store
from softprompt_core.ui import compare_tab
from softprompt_core.ui.context import Context
from tests.ui.conftest import App

INITS = ["random", "text", "sampled_vocab"]
CURVES = """() => (document.querySelector('#compare-chart .js-plotly-plot')?._fullData ?? [])
  .filter(t => t.mode === 'lines').map(t => ({dash: t.line.dash, color: t.line.color, x: Array.from(t.x)}))"""
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
        pane = page.locator(f"#compare-view .sp-cmp-pane[data-init={info.config['init']}]")
        expect(pane.locator(".sp-cmp-score b")).to_have_text(f"{100 * info.result['eval_accuracy']:.1f} %")
        expect(pane.locator(".sp-cmp-line")).to_contain_text("against the majority class")
        expect(pane.locator(".sp-cmp-words li")).to_have_count(3)
    expect(page.locator("#compare-view .sp-cmp-verdict tbody tr")).to_have_count(3)
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


def test_stop_all_stops_the_group_and_says_so(page: Page, app: App) -> None:
    open_compare(page, app)
    page.locator("#compare-steps input").fill("5000")
    page.locator("#compare-virtual_tokens input").fill("2")
    page.get_by_role("checkbox", name="sampled vocab").uncheck()
    page.locator("#compare-go").click()
    expect(page.locator("#compare-view .sp-cmp-pane")).to_have_count(2)
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
