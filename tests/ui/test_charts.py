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


def arm(method: str, *, init: str = "text", seed: int = 0, status: str = "done", **result: object) -> RunInfo:
    config = {"method": method, "init": init, "seed": seed}
    return RunInfo("r", "name", status, "g", 0.0, 0.0, config, dict(result), "", 5, 9)  # type: ignore[arg-type]


def test_arms_are_called_by_what_tells_them_apart() -> None:
    assert charts.arm_names([arm("prompt", init=i) for i in ("random", "sampled_vocab")]) == ["random", "sampled vocab"]
    methods = [arm("prompt"), arm("lora"), arm("lora", seed=1)]
    assert charts.arm_names(methods) == ["prompt tuning", "LoRA", "LoRA"]
    both = [arm("prompt"), arm("prompt", init="random"), arm("full")]
    assert charts.arm_names(both) == ["prompt tuning · text", "prompt tuning · random", "full fine-tuning"]


def test_summary_has_a_row_an_arm_with_every_seed_and_the_baselines_beside_it() -> None:
    baselines = {"majority": {"accuracy": 0.5}, "hand_written": None, "few_shot": {"accuracy": 0.6, "loss": 1.0}}
    tested = {"eval_loss": 0.5, "seconds": 10.0, "trainable_parameters": 5_120, "baselines": baselines}
    found = charts.summary_payload([
        arm("prompt", eval_accuracy=0.7, **tested), arm("prompt", seed=1, eval_accuracy=0.8, **tested),
        arm("lora", eval_accuracy=0.9, **tested), arm("lora", seed=1, status="failed"),
    ])
    prompt, lora, *others = found["rows"]
    assert prompt["dots"] == [[0, 0.7], [1, 0.8]]
    assert prompt["mean"] == 0.75
    assert (prompt["low"], prompt["high"]) == (0.1147, 1.0)     # t(1) × 0.0707 / √2 around it, within 0 … 1
    assert prompt["cells"] == ["75.0 % (11.5–100.0)", "0.500", "5,120", "10", "2"]
    assert lora["cells"][-1] == "1 of 2"
    assert [(row["name"], row["is_arm"], row["mean"]) for row in others] == [
        ("The majority class", False, 0.5), ("A few examples", False, 0.6),
    ]


def test_summary_of_one_seed_has_the_interval_of_its_test_rows_and_missing_figures_stay_missing() -> None:
    found = charts.summary_payload([
        arm("prompt", eval_accuracy=0.8, eval_accuracy_low=0.7, eval_accuracy_high=0.87), arm("full", status="failed"),
    ])
    assert found["interval"] == "over test rows"
    assert found["rows"][0]["cells"] == ["80.0 % (70.0–87.0)", "–", "–", "–", "1"]
    assert found["rows"][1]["mean"] is None
    assert found["rows"][1]["cells"] == ["–", "–", "–", "–", "0 of 1"]


def test_json_survives_lone_surrogates_and_numbers_that_are_none() -> None:
    assert json.loads(charts.compact({"text": "a\ud800b"})) == {"text": "a?b"}
    assert charts.rounded([float("nan"), 0.123456, float("inf")]) == [None, 0.1235, None]
