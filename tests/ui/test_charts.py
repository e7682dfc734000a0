"""What is sent to the browser: bounded, rounded, complete where it promises to be, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from softprompt_core.records import Neighbour, RunInfo, TokenReading
from softprompt_core.ui import charts

LARGE = 250_000


def reading(index: int, ids: list[int], texts: list[str], *, z: float | None = 4.0) -> TokenReading:
    near = [Neighbour(i, texts[i], 0.9 - 0.01 * n) for n, i in enumerate(ids)]
    return TokenReading(index, 1.25, 40.0, z, False, near, "start", 0.5)


def info(status: str = "done", **result: object) -> RunInfo:
    return RunInfo("r1", "name", status, None, 0.0, 0.0, {"init": "text"}, dict(result), "", 5, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize("letter", ["a", "\U0001f600", '"', "\\"])
def test_a_quarter_million_words_cost_less_than_3_mb_and_none_is_cut_silently(letter: str) -> None:
    texts = [letter * 60] * LARGE
    coordinates = np.random.default_rng(0).normal(size=(LARGE, 3))
    is_listed = np.ones(LARGE, bool)
    is_listed[:1_000] = False
    cloud = charts.cloud_payload(texts, coordinates, is_listed=is_listed, explained=np.array([0.2, 0.1, 0.05]), key="k")
    assert len(json.dumps(cloud, ensure_ascii=False).encode()) < 3_000_000     # as it travels: a string within JSON
    found = json.loads(cloud)
    assert (found["drawn"], found["listed"], found["total"]) == (20_000, LARGE - 1_000, LARGE)
    assert [len(axis) for axis in found["xyz"]] == [20_000] * 3


def test_only_listed_words_are_drawn_and_places_survive_rounding() -> None:
    coordinates = np.array([[3.0, -1.0], [0.5, 0.25], [-6.0, 2.0]])
    cloud = json.loads(charts.cloud_payload(
        ["no", "b", "c"], coordinates, is_listed=np.array([False, True, True]), explained=np.array([0.5, 0.1]), key="k",
    ))
    assert cloud["text"] == ["b", "c"]
    places = np.array(cloud["xyz"]).T * charts.grid_step(coordinates)
    assert places == pytest.approx(coordinates[1:], abs=6.0 / charts.GRID)


def test_every_neighbour_has_its_place_even_if_the_picture_left_it_out() -> None:
    texts = [f"w{i}" for i in range(500)]
    coordinates = np.random.default_rng(1).normal(size=(500, 3))
    tokens = [reading(0, [3, 499], texts), reading(1, [250, 3], texts, z=None)]
    found = json.loads(charts.reading_payload(
        tokens, texts=texts, coordinates=coordinates, shares=np.array([[0.1, 0.2], [0.3, 0.4]]),
        explained=np.array([0.5, 0.2, 0.1]), frames={}, about={}, key="k",
    ))
    assert set(found["words"]) == {"3", "250", "499"}
    text, *place = found["words"]["499"]
    assert text == "w499"
    assert np.array(place) * charts.grid_step(coordinates) == pytest.approx(coordinates[499], abs=1e-3)
    assert found["tokens"][1]["z"] is None
    assert found["tokens"][0]["near"] == [[3, 0.9], [499, 0.89]]


def test_frames_hold_every_snapshot_in_order_and_the_prompt_that_the_table_reads() -> None:
    coordinates, projected = np.ones((4, 2)), np.arange(24.0).reshape(4, 3, 2)
    current = np.full((3, 2), 7.0)
    frames = charts.frames_payload([0, 10, 20, 30], projected, step=25, current=current, coordinates=coordinates)
    assert frames["steps"] == [0, 10, 20, 25, 30]
    assert frames["now"] == 3
    assert np.array(frames["xyz"][3]) * charts.grid_step(coordinates) == pytest.approx(7.0, abs=1e-3)
    again = charts.frames_payload([0, 10, 20, 30], projected, step=20, current=current, coordinates=coordinates)
    assert again["steps"] == [0, 10, 20, 30]
    assert again["now"] == 2


def test_long_ways_are_thinned_but_keep_their_start() -> None:
    projected = np.zeros((500, 1_000, 3))
    frames = charts.frames_payload(
        list(range(500)), projected, step=499, current=projected[0], coordinates=np.ones((2, 3)),
    )
    assert frames["steps"][0] == 0
    assert frames["steps"][-1] == 499
    assert len(frames["steps"]) * 1_000 <= charts.MAX_PATH_POINTS + 1_000


def test_csv_neutralises_formulas_and_quotes_commas() -> None:
    texts = ["=cmd()", "+1", "-2", "@x", 'a,"b"', " \t=x"]
    table = charts.tokens_csv([reading(0, [0, 1, 2, 3, 4, 5], texts)], np.array([[0.5, 0.6]]))
    head, row = csv.reader(io.StringIO(table))
    cells = dict(zip(head, row, strict=True))
    assert [cells[f"word_{n}"] for n in range(1, 7)] == ["'=cmd()", "'+1", "'-2", "'@x", 'a,"b"', "' \t=x"]
    assert cells["score_1"] == "0.9"
    assert cells["echo"] == "no"
    assert cells["share_in_plane"] == "0.5"


def test_negative_scores_stay_numbers_in_the_csv() -> None:
    near = [Neighbour(0, "a", -2.5)]
    table = charts.tokens_csv([TokenReading(0, 1.0, 2.0, -0.5, None, near)], np.array([[0.5, 0.5]]))
    assert table.splitlines()[1] == "0,-0.5,1.0,2.0,,,,0.5,a,-2.5"


def test_result_line_names_what_the_prompt_must_beat() -> None:
    line = charts.result_line(info(
        eval_accuracy=0.87, eval_accuracy_low=0.82, eval_accuracy_high=0.905, test_rows=240,
        baselines={"majority": {"accuracy": 0.517}, "hand_written": {"accuracy": 0.55}},
    ))
    assert line == (
        "Test accuracy 87.0 % (95 %: 82–90 %) on 240 rows, "
        "against the majority class 51.7 %, a hand-written prompt 55.0 %."
    )


@pytest.mark.parametrize(
    ("status", "words"), [("running", "step 5 of 9"), ("queued", "Waiting"), ("stopped", "No test figures")]
)
def test_result_line_never_invents_figures(status: str, words: str) -> None:
    assert words in charts.result_line(info(status))


def test_summary_shows_missing_figures_as_missing() -> None:
    item = {"init": "text", "runs": 1, "accuracy_mean": 0.8, "accuracy_ci95_low": None, "accuracy_ci95_high": None,
            "loss_mean": None, "loss_ci95_low": None, "loss_ci95_high": None}
    assert charts.summary_rows({"summary": [item]}) == [["text", "1", "80.0 %", "–"]]


def test_json_survives_lone_surrogates_and_numbers_that_are_none() -> None:
    assert json.loads(charts.compact({"text": "a\ud800b"})) == {"text": "a?b"}
    assert charts.rounded([float("nan"), 0.123456, float("inf")]) == [None, 0.1235, None]
