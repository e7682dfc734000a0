"""The Train tab, driven as a user drives it, against the real app and model."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from softprompt_core.config import TrainConfig
from softprompt_core.records import EndRecord, LogRecord, StepRecord
from tests.ui.conftest import App

CURVE = """() => {
  const plot = document.querySelector('#train-chart .js-plotly-plot');
  return (plot?._fullData ?? []).map(t => ({name: t.name, x: Array.from(t.x ?? []), y: Array.from(t.y ?? [])}));
}"""
HAS_POINTS = """least => {
  const plot = document.querySelector('#train-chart .js-plotly-plot');
  return (plot?._fullData?.[0]?.x?.length ?? 0) >= least;
}"""
RANGE = "() => document.querySelector('#train-chart .js-plotly-plot')._fullLayout.xaxis.range"
LONG, LONGER, LONGEST = 2_000, 3_000, 4_000


def set_number(page: Page, field: str, value: float) -> None:
    page.locator(f"#train-{field} input").fill(str(value))


def pick(page: Page, field: str, option: str) -> None:
    """Chooses an option of a drop-down."""
    page.locator(f"#train-{field} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def open_ready(page: Page, app: App) -> None:
    page.goto(app.url)
    expect(page.locator("#train-preview .sp-row").first).to_be_visible()


def start(page: Page, app: App, *, steps: int, tokens: int = 4) -> str:
    """The id of the run that one click on Train makes, when the page shows it."""
    before = {info.run_id for info in app.store.runs()}
    assert f"/ {steps}" not in page.locator("#train-chart .sp-tiles").inner_text(), "choose another number"
    set_number(page, "steps", steps)
    set_number(page, "virtual_tokens", tokens)
    page.locator("#train-go").click()
    expect(page.locator("#train-chart .sp-tiles")).to_contain_text(f"/ {steps}")
    [run_id] = {info.run_id for info in app.store.runs()} - before
    return run_id


def upload(page: Page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#train-upload").click()
    chooser.value.set_files(path)


def zoom_in(page: Page) -> None:
    """Drags a box over the middle of the chart."""
    plot = page.locator("#train-chart .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"], steps=5)
    page.mouse.up()


def test_page_opens_complete_and_says_what_to_do_first(page: Page, app: App) -> None:
    open_ready(page, app)
    expect(page.locator("#train-data input")).to_have_value("complaints")
    expect(page.locator("#train-model input")).to_have_value(re.compile("bundled"))
    expect(page.locator("#train-init input")).to_have_value(re.compile("^text"))
    expect(page.locator("#train-preview")).to_contain_text("virtual token")
    if not app.store.runs():
        expect(page.locator("#train-chart")).to_contain_text("Press Train")


def test_one_click_gives_the_stored_curve_and_a_result_beside_the_baselines(page: Page, app: App) -> None:
    open_ready(page, app)
    run_id = start(page, app, steps=20)
    expect(page.locator("#train-chart .sp-tiles")).to_contain_text("done", timeout=90_000)
    run = app.store.run(run_id)
    raw, smooth, validation = page.evaluate(CURVE)
    steps = app.store.metrics(run.run_id)
    assert raw["x"] == [s.step for s in steps] == list(range(1, 21))
    assert raw["y"] == pytest.approx([s.loss for s in steps], rel=1e-4)
    assert smooth["x"] == raw["x"]
    assert smooth["y"][-1] == pytest.approx(sum(s.loss for s in steps[-5:]) / 5, rel=1e-4)
    evals = [e for e in app.store.evals(run.run_id) if e.split == "validation" and e.source == "prompt"]
    assert validation["x"] == [e.step for e in evals]
    assert validation["y"] == pytest.approx([e.loss for e in evals], rel=1e-4)
    expect(page.locator("#train-result tr.sp-best")).to_contain_text(f"{100 * run.result['eval_accuracy']:.1f} %")
    expect(page.locator("#train-result")).to_contain_text("always the most frequent label")
    expect(page.locator("#train-title")).to_contain_text(run.name)
    expect(page.locator("#train-words li")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_reload_in_mid_run_keeps_every_point_and_zoom_survives_updates(page: Page, app: App) -> None:
    open_ready(page, app)
    run_id = start(page, app, steps=LONG)
    page.wait_for_function(HAS_POINTS, arg=8)
    seen = page.evaluate(CURVE)[0]["x"]
    page.reload()
    page.wait_for_function(HAS_POINTS, arg=len(seen) + 2)
    again = page.evaluate(CURVE)[0]
    assert again["x"] == list(range(1, len(again["x"]) + 1))
    expect(page.locator("#train-steps input")).to_have_value(str(LONG))
    expect(page.locator("#train-text_column input")).to_have_value("text")

    zoom_in(page)
    zoomed = page.evaluate(RANGE)
    page.wait_for_function(HAS_POINTS, arg=len(again["x"]) + 5)
    assert page.evaluate(RANGE) == zoomed
    page.locator("#train-stop").click()
    run = app.wait_for_end(run_id)
    assert run.status == "stopped"
    expect(page.locator("#train-chart .sp-tiles")).to_contain_text("stopped")
    expect(page.locator("#train-result")).to_contain_text("best prompt so far is kept")
    page.wait_for_function(HAS_POINTS, arg=run.step)


def test_run_is_paused_stopped_resumed_and_trained_on_from(page: Page, app: App) -> None:
    open_ready(page, app)
    run_id = start(page, app, steps=LONGEST)
    tiles, hold = page.locator("#train-chart .sp-tiles"), page.locator("#train-hold")
    page.wait_for_function(HAS_POINTS, arg=3)
    hold.click()
    expect(tiles).to_contain_text("paused")
    expect(hold).to_have_text("Resume")
    reached = app.store.run(run_id).step
    page.wait_for_timeout(500)
    assert app.store.run(run_id).step == reached
    hold.click()
    expect(tiles).to_contain_text("running")
    expect(hold).to_have_text("Pause")
    page.locator("#train-stop").click()
    stopped = app.wait_for_end(run_id).step
    assert stopped >= reached
    expect(page.locator("#train-stop")).to_be_hidden()
    expect(hold).to_have_text("Resume")

    hold.click()
    expect(tiles).to_contain_text("running")
    page.wait_for_function(HAS_POINTS, arg=stopped + 2)
    page.locator("#train-stop").click()
    app.wait_for_end(run_id)
    assert [s.step for s in app.store.metrics(run_id)] == list(range(1, app.store.run(run_id).step + 1))

    page.locator("#train-fork").click()
    expect(page.locator("#train-init_run input")).to_have_value(re.compile(run_id[-4:]))
    set_number(page, "steps", 3)
    page.locator("#train-go").click()
    expect(tiles).to_contain_text("/ 3")
    forked = app.wait_for_end(app.newest().run_id)
    assert (forked.config["init"], forked.config["init_run"], forked.status) == ("from_run", run_id, "done")


def test_method_and_preset_fill_the_form_and_show_only_what_applies(page: Page, app: App) -> None:
    open_ready(page, app)
    below = page.locator("#train-go").bounding_box()
    assert below is not None
    assert below["y"] + below["height"] <= 725      # a newcomer sees the button on a small screen without scrolling
    expect(page.locator("#train-lora_rank")).to_be_hidden()
    pick(page, "method", "LoRA")
    expect(page.locator("#train-lora_rank")).to_be_visible()
    expect(page.locator("#train-lr input")).to_have_value("0.002")
    for field in ("virtual_tokens", "init", "init_run"):
        expect(page.locator(f"#train-{field}")).to_be_hidden()
    expect(page.locator("#train-preview .sp-virtual")).to_have_count(0)

    pick(page, "preset", "Lester et al. 2021")
    expect(page.locator("#train-preset-note")).to_contain_text("introduced prompt tuning")
    page.locator("#train-preset-note summary").click()
    expect(page.locator("#train-preset-note")).to_contain_text("https://arxiv.org/abs/2104.08691")
    expect(page.locator("#train-method input")).to_have_value("prompt tuning")
    expect(page.locator("#train-lr input")).to_have_value("0.3")
    expect(page.locator("#train-virtual_tokens input")).to_have_value("100")
    expect(page.locator("#train-lora_rank")).to_be_hidden()
    expect(page.locator("#train-preview")).to_contain_text("100 × virtual token")
    expect(page.locator("#train-data input")).to_have_value("complaints")
    pick(page, "preset", "PEFT's example")
    expect(page.locator("#train-steps")).to_contain_text("by epochs")
    expect(page.locator("#train-steps input")).to_be_disabled()
    pick(page, "preset", "Lester et al. 2021")
    expect(page.locator("#train-steps input")).to_be_enabled()
    page.locator("#train-more > button").click()
    expect(page.locator("#train-optimizer input")).to_have_value("adafactor")
    expect(page.locator("#train-batch_size input")).to_have_value("32")


def test_check_says_what_a_run_will_be_until_a_setting_changes(page: Page, app: App) -> None:
    open_ready(page, app)
    before = len(app.store.runs())
    pick(page, "preset", "Quick look")      # its settings in the fold, which is closed, count as well
    expect(page.locator("#train-steps input").first).to_have_value("100")
    set_number(page, "lr", 5)
    page.locator("#train-check").click()
    report = page.locator("#train-report")
    expect(report.locator("table")).to_contain_text("trainable parameters")
    expect(report.locator("table")).to_contain_text("100, which is 2.5 passes")
    expect(report.locator("li")).to_contain_text("learning rate")
    set_number(page, "steps", 0)
    expect(report.locator("table")).to_have_count(0)
    page.locator("#train-check").click()
    expect(report.locator("[role=alert]")).to_contain_text("steps: 0 was given")
    expect(page.locator("#train-check")).to_be_enabled()
    assert len(app.store.runs()) == before


def test_run_that_diverges_says_why_beside_its_curve(page: Page, app: App) -> None:
    run_id = app.store.create(TrainConfig(steps=50, name="too fast"), status="running")
    app.store.append([
        StepRecord(run_id, 1, 0.1, 2.0, 9.0, 1.0, 10, 0.1), LogRecord(run_id, "warning", "layout <b>fallback</b>"),
        LogRecord(run_id, "error", "The loss stopped being a number at step 2."),
        EndRecord(run_id, "failed", "The loss stopped being a number at step 2."),
    ])
    open_ready(page, app)
    expect(page.locator("#train-title")).to_contain_text("too fast")
    expect(page.locator("#train-warnings li")).to_have_text(["layout <b>fallback</b>"])
    expect(page.locator("#train-result [role=alert]")).to_contain_text("stopped being a number at step 2")
    expect(page.locator("#train-hold")).to_have_text("Resume")


def test_closing_the_tab_never_stops_training(page: Page, app: App) -> None:
    open_ready(page, app)
    run_id = start(page, app, steps=LONGER)
    page.wait_for_function(HAS_POINTS, arg=2)
    page.goto("about:blank")
    reached = app.store.run(run_id).step
    for _ in range(100):
        if app.store.run(run_id).step > reached + 2:
            break
        page.wait_for_timeout(100)
    assert app.store.run(run_id).status == "running"
    assert app.store.run(run_id).step > reached + 2
    app.call("/stop", run_id)
    assert app.wait_for_end(run_id).status == "stopped"


def test_uploaded_table_with_odd_columns_is_guessed_shown_and_changeable(
    page: Page, app: App, tmp_path: Path
) -> None:
    open_ready(page, app)
    upload(page, odd_table(tmp_path))
    preview = page.locator("#train-preview")
    expect(preview).to_contain_text("angry")
    expect(page.locator("#train-text_column input")).to_have_value("what they wrote")
    expect(page.locator("#train-label_column input")).to_have_value("mood (1st look)")
    expect(preview).to_contain_text("1 dropped")
    assert page.evaluate("window.pwned") is None
    expect(preview).to_contain_text("pwned")

    page.locator("#train-label_column input").click()
    page.get_by_role("option", name="channel").click()
    expect(preview.locator("b", has_text="letter")).to_be_visible()
    run = app.wait_for_end(start(page, app, steps=7))
    assert (run.config["text_column"], run.config["label_column"]) == ("what they wrote", "channel")
    assert Path(run.config["data"]).is_relative_to(app.store.root)


def test_settings_of_a_run_come_back_with_its_columns_and_a_choice_of_data_forgets_them(
    page: Page, app: App, tmp_path: Path
) -> None:
    open_ready(page, app)
    upload(page, odd_table(tmp_path))
    label = page.locator("#train-label_column input")
    expect(label).to_have_value("mood (1st look)")
    label.click()
    page.get_by_role("option", name="channel").click()
    expect(page.locator("#train-preview b", has_text="letter")).to_be_visible()
    app.wait_for_end(start(page, app, steps=6))

    page.locator("#train-data input").click()
    page.get_by_role("option", name="emotions").click()
    expect(page.locator("#train-preview")).to_contain_text("joy")
    expect(label).to_have_value("label")
    page.locator("#train-reuse").click()
    expect(page.locator("#train-preview b", has_text="letter")).to_be_visible()
    expect(label).to_have_value("channel")
    expect(page.locator("#train-data input")).to_have_value(re.compile("field notes"))


def test_wrong_input_names_every_mistake_and_makes_no_run(page: Page, app: App) -> None:
    open_ready(page, app)
    before = len(app.store.runs())
    set_number(page, "lr", 0)
    set_number(page, "steps", 0)
    page.locator("#train-go").click()
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("steps: 0 was given; allowed is a whole number")
    expect(toast).to_contain_text("learning rate: 0 was given; allowed is a number above 0")
    assert len(app.store.runs()) == before


def test_wrong_template_and_file_are_explained_in_place(page: Page, app: App, tmp_path: Path) -> None:
    open_ready(page, app)
    page.locator("#train-template textarea").fill("Say {nothing_like_it}:")
    expect(page.locator("#train-preview [role=alert]")).to_contain_text("nothing_like_it")
    broken = tmp_path / "notes.csv"
    broken.write_text("only one column\nx\n", encoding="utf-8")
    upload(page, broken)
    expect(page.get_by_test_id("toast-body")).to_contain_text("one column")
    expect(page.locator("#train-data input")).to_have_value("complaints")


def test_page_is_usable_on_a_phone(page: Page, app: App) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_ready(page, app)
    for tab in ("Inspect", "Compare", "Runs", "Train"):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab


def odd_table(folder: Path) -> Path:
    """A table whose columns no rule knows, with markup and template marks in its texts, and one row without text."""
    path = folder / "field notes.csv"
    rows: list[list[Any]] = [["mood (1st look)", "what they wrote", "channel"]]
    for i in range(40):
        attack = "<img src=x onerror=window.pwned=1>${window.pwned=1}{{x}} `" if i % 2 else "the bus was late again"
        rows.append([("angry", "calm")[i % 2], f"{attack} number {i}", ("letter", "call", "letter")[i % 3]])
    rows.append(["calm", "", "call"])
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
