"""What needs the model, on the real page: measured in the background, drawn, linked to the table, and taken away."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from softprompt_core import studies
from softprompt_core.config import TrainConfig
from softprompt_core.inspection.vocabulary import vocabulary_of
from softprompt_core.models import load_model
from softprompt_core.records import EndRecord, Snapshot, StartRecord
from softprompt_core.store import Store
from softprompt_core.ui import readings_view
from softprompt_core.ui.context import Context
from tests.inspection.test_report import HOSTILE, READINGS
from tests.ui.conftest import App

SLOW = 180_000
WORDS = ("␣late", "␣early")


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 short rows, so that 24 are for testing."""
    path = tmp_path_factory.mktemp("rows") / "mail.csv"
    rows = [f"parcel {i} came late,bad\nparcel {i} came early,good\n" for i in range(80)]
    path.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return path


def planted(store: Store, data: Path, *, seed: int = 0) -> str:
    """The id of a finished run whose prompt is the rows of two words."""
    vocabulary = vocabulary_of(load_model("bundled", device="cpu"))
    goal = vocabulary.table[[vocabulary.texts.index(word) for word in WORDS]]
    run_id = store.create(TrainConfig(data=str(data), virtual_tokens=2, steps=20, seed=seed), status="running")
    store.append([
        StartRecord(run_id, {}), Snapshot(run_id, 0, goal + 1), Snapshot(run_id, 20, goal, "selected"),
        EndRecord(run_id, "done", "", {"eval_accuracy": 0.75}),
    ])
    return run_id


def keep(store: Store, run_id: str, readings: dict[str, Any]) -> None:
    """Puts documents into the run's folder as if they had been made there."""
    key = studies.key_of(studies.subject_of(store, run_id))
    folder = store.folder(run_id) / "readings"
    folder.mkdir()
    for name, reading in readings.items():
        text = json.dumps({"key": key, "reading": reading})
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def opened(page: Page, app: App) -> Locator:
    page.goto(app.url)
    page.get_by_role("tab", name="Inspect", exact=True).click()
    view = page.locator("#inspect-view")
    expect(view.locator("tr[data-index='1']")).to_be_visible()
    return view


def test_measuring_shows_a_score_with_its_sentence_and_outlives_a_reload(page: Page, app: App, rows_csv: Path) -> None:
    run_id = planted(app.store, rows_csv)
    view = opened(page, app)
    header = view.locator(".sp-rd-trust")
    expect(header).to_contain_text("Not measured yet")
    expect(header).to_contain_text("passes through the model on")
    header.get_by_role("button", name="Measure what it does").click()
    expect(header.get_by_role("progressbar")).to_be_visible()
    expect(header.locator(".sp-rd-number")).to_be_visible(timeout=SLOW)
    header.get_by_role("button", name="Cancel").click()
    expect(header.get_by_role("button", name="Measure the rest")).to_be_visible(timeout=SLOW)
    trust = json.loads((app.store.folder(run_id) / "readings" / "ladder.json").read_text())["reading"]["trust"]
    shown = "–" if trust["score"] is None else str(round(trust["score"]))
    page.reload()
    view = opened(page, app)
    expect(view.locator(".sp-rd-number")).to_have_text(re.compile(f"^{shown}"))
    expect(view.locator(".sp-rd-verdict .sp-rd-sentence")).to_have_text(trust["sentence"])
    expect(view.locator("[data-card=ladder] svg")).to_contain_text("Its nearest words")
    expect(view.locator("[data-card=says_of_itself]")).to_contain_text(re.compile("Not measured yet|Cancelled|answer"))


def test_a_bar_selects_its_token_everywhere_and_hostile_text_stays_text(
    page: Page, app: App, rows_csv: Path
) -> None:
    keep(app.store, planted(app.store, rows_csv), READINGS)
    view = opened(page, app)
    expect(view.locator(".sp-rd-number")).to_have_text("22 / 100")
    expect(view.locator(".sp-rd-facts .is-limit")).to_contain_text("Kept by the words")
    expect(view.locator(".sp-rd-verdict .sp-rd-sentence")).to_have_text(f"Careful: {HOSTILE}")
    expect(view.locator("[data-card=signature] q")).to_have_text(HOSTILE)
    expect(view.locator("[data-card=says_of_itself] td").get_by_text(HOSTILE)).to_be_visible()
    expect(view.locator("[data-card=says_of_itself] .is-warning")).to_contain_text("No answer beats the controls")
    expect(view.locator("[data-card=tokens] .is-warning")).to_contain_text("not shown as a ranking")
    expect(view.locator("tr[data-index='0'] .c-delta b")).to_have_text("+0.40")

    view.locator("[data-card=tokens] rect[data-index='1']").click()
    expect(view.locator("tr[data-index='1']")).to_have_class(re.compile("is-picked"))
    expect(view.locator("[data-card=attention]")).to_contain_text("paid to virtual token 2")
    view.locator("tr[data-index='0'] button").click()
    expect(view.locator("[data-card=attention]")).to_contain_text("paid to virtual token 1")
    assert page.evaluate("window.hit") is None
    assert view.locator("img").count() == 0


def test_tables_pictures_and_report_can_be_taken_away(page: Page, app: App, rows_csv: Path, tmp_path: Path) -> None:
    run_id = planted(app.store, rows_csv)
    keep(app.store, run_id, READINGS)
    view = opened(page, app)
    expect(view.locator("[data-card=ladder] svg")).to_be_visible()

    def saved(name: str) -> Path:
        with page.expect_download() as waiting:
            view.get_by_role("button", name=name, exact=True).click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    table = saved("Download What survives when it is read as words as CSV")
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["in_place_of_the_prompt"] for row in rows] == ["soft", "nearest", "random"]
    picture = saved("Download What survives when it is read as words as SVG").read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert "var(" not in picture
    assert saved("Download What survives when it is read as words as PNG").read_bytes()[:4] == b"\x89PNG"
    report = saved("Download the whole inspection as one HTML page")
    assert report.name == f"{run_id}-report.html"
    requests: list[str] = []
    other = page.context.new_page()
    other.on("request", lambda request: requests.append(request.url))
    other.goto(report.as_uri())
    expect(other.locator(".score")).to_have_text("22 / 100")
    assert requests == [report.as_uri()]
    document = json.loads(saved("Download the whole inspection as JSON").read_text(encoding="utf-8"))
    assert document["readings"]["ladder"] == READINGS["ladder"]
    assert document["trust"]["score"] == READINGS["ladder"]["trust"]["score"]


def test_two_prompts_stand_side_by_side(page: Page, app: App, rows_csv: Path) -> None:
    first, second = planted(app.store, rows_csv), planted(app.store, rows_csv, seed=1)
    view = opened(page, app)
    card = view.locator("[data-card=pair]")
    expect(card.get_by_role("combobox")).to_be_enabled()
    card.get_by_role("combobox").select_option(first)
    card.get_by_role("button", name="Set side by side").click()
    expect(card).to_contain_text("Matched tokens", timeout=SLOW)
    expect(card).to_contain_text("1 ␣late ↔ 1 ␣late 1.00")
    expect(card.locator("svg").nth(1)).to_contain_text("along the line")

    planted(app.store, rows_csv, seed=2)        # the newest run, which the page shows first
    view = opened(page, app)
    expect(card).not_to_contain_text("Matched tokens")
    page.evaluate(
        "pair => window.dispatchEvent(new CustomEvent('sp-pair', {detail: pair}))", {"run": second, "other": first}
    )
    page.locator("#inspect-run input").click()
    page.get_by_role("option").filter(has_text=second[-4:]).first.click()
    expect(card).to_contain_text("Matched tokens", timeout=SLOW)
    expect(card.get_by_role("combobox")).to_have_value(first)


# ------------------------------------------------- without a browser


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def ask(store: Store) -> Callable[..., dict[str, Any]]:
    functions = {f.__name__: f for f in readings_view.sources(Context(store, runner=None))}  # type: ignore[arg-type]
    return lambda name, **asked: json.loads(functions[name](asked))


def test_only_what_is_new_is_sent(ask: Callable[..., dict[str, Any]], store: Store, rows_csv: Path) -> None:
    run_id = planted(store, rows_csv)
    keep(store, run_id, READINGS)
    first = ask("readings", run=run_id)
    assert {name: item["stage"] for name, item in first["items"].items()} == dict.fromkeys(first["order"], "done")
    assert first["items"]["ladder"]["reading"] == READINGS["ladder"]
    seen = {name: item["stamp"] for name, item in first["items"].items()}
    again = ask("readings", run=run_id, seen=seen)
    assert not any("reading" in item for item in again["items"].values())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"run": "gone"}, "There is no run"), ({"run": "a", "what": 1}, "Reload the page"),
        ({"run": ["a"]}, "Reload the page"),
    ],
)
def test_malformed_questions_are_refused_in_words(
    ask: Callable[..., dict[str, Any]], asked: dict[str, Any], words: str
) -> None:
    for name in ("readings", "study", "rows", "report", "keep"):
        assert words in ask(name, **asked)["error"] or (name == "rows" and "no table" in ask(name, **asked)["error"])


def test_a_run_that_cannot_be_measured_says_why(
    ask: Callable[..., dict[str, Any]], store: Store, rows_csv: Path
) -> None:
    run_id = store.create(TrainConfig(data=str(rows_csv)), status="running")
    assert "once its training has ended" in ask("readings", run=run_id)["reason"]
    few = rows_csv.parent / "few.csv"
    few.write_text("text,label\n" + "".join(f"late {i},bad\nearly {i},good\n" for i in range(8)), encoding="utf-8")
    assert "are too few to measure" in ask("readings", run=planted(store, few))["reason"]
    imported = planted(store, Path("imported"))
    assert "imported without its data" in ask("readings", run=imported)["reason"]


def test_large_attention_is_sent_as_sums_only() -> None:
    large = {"by_token": [0.5], "mass": [[[0.1] * 200] * 32] * 32}
    assert readings_view.slim(large) == {"by_token": [0.5]}
    assert readings_view.slim({"mass": [[[float("nan")]]], "n": 1 / 3}) == {"mass": [[[None]]], "n": 0.33333}
