"""What the browser is sent: thinned, bounded, and never moved once sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from softprompt_core.config import TrainConfig
from softprompt_core.records import EndRecord, ResumeRecord, StepRecord
from softprompt_core.store import Store
from softprompt_core.ui import live

STEPS = 10_000


def filled(root: Path, *, steps: int = STEPS, upto: int | None = None) -> tuple[Store, str, np.ndarray]:
    """A store with one run whose loss wanders; losses: [steps]."""
    store = Store(root)
    run_id = store.create(TrainConfig(steps=steps), status="running")
    losses = np.random.default_rng(0).normal(3, 1, steps)
    add(store, run_id, losses, 0, steps if upto is None else upto)
    return store, run_id, losses


def add(store: Store, run_id: str, losses: np.ndarray, low: int, high: int) -> None:
    store.append(
        StepRecord(run_id, i + 1, 0.0, float(losses[i]), 0.01, 1.0, 100, 0.1 * (i + 1)) for i in range(low, high)
    )


def test_first_fill_is_bounded_and_keeps_the_extremes(tmp_path: Path) -> None:
    store, run_id, losses = filled(tmp_path)
    news = live.run_news(store, run_id, 0, 0)
    assert len(news["x"]) <= live.FIRST_POINTS
    assert len(news["sx"]) <= live.FIRST_POINTS
    assert news["x"][-1] == news["cursor"] == STEPS
    assert np.isclose(max(news["y"]), losses.max(), rtol=1e-4)
    assert np.isclose(min(news["y"]), losses.min(), rtol=1e-4)
    assert np.allclose(news["y"], losses[np.array(news["x"]) - 1], rtol=1e-4)


def test_every_bin_keeps_lowest_highest_and_last(tmp_path: Path) -> None:
    _, _, losses = filled(tmp_path)
    steps = np.arange(1, STEPS + 1)
    kept = live.thin(steps, losses, most=2_000)
    width = 16
    for start in range(0, STEPS, width):
        inside = np.flatnonzero((steps >= start) & (steps < start + width))
        expected = {int(inside[losses[inside].argmin()]), int(inside[losses[inside].argmax()]), int(inside[-1])}
        assert expected == set(kept[(steps[kept] >= start) & (steps[kept] < start + width)])


def test_live_update_stays_under_two_kilobytes_and_idle_polls_are_tiny(tmp_path: Path) -> None:
    store, run_id, losses = filled(tmp_path, upto=9_000)
    add(store, run_id, losses, 9_000, STEPS)
    assert len(json.dumps(live.run_news(store, run_id, 9_000, 0))) < 2_000
    assert len(json.dumps(live.run_news(store, run_id, STEPS, 0))) < 250


def test_smooth_line_is_the_same_whether_sent_at_once_or_in_parts(tmp_path: Path) -> None:
    store, run_id, _ = filled(tmp_path, steps=300)
    whole = live.run_news(store, run_id, 0, 0)
    late = live.run_news(store, run_id, 280, 0)
    assert late["sx"] == list(range(281, 301))
    assert late["sy"] == whole["sy"][280:]


def test_ended_run_is_told_as_ended_and_a_deleted_one_as_gone(tmp_path: Path) -> None:
    store, run_id, _ = filled(tmp_path, steps=5)
    store.append([EndRecord(run_id, "done", "", {"device": "cpu"})])
    ask = live.curve_source(store)
    [found] = ask([[run_id, 0, 0]])["runs"]
    assert (found["ended"], found["device"], found["left"]) == (True, "cpu", 0)
    store.delete(run_id)
    assert ask([[run_id, 0, 0]])["runs"] == [{"id": run_id, "gone": True}]


def test_malformed_questions_are_ignored(tmp_path: Path) -> None:
    ask = live.curve_source(Store(tmp_path))
    for asked in (None, "x", [1], [["a"]], [["a", "b", "c"]], [["../x", 0, 0]], {"a": 1}):
        assert all(item.get("gone") for item in ask(asked)["runs"])


def test_run_that_goes_back_to_a_checkpoint_says_so_by_its_step(tmp_path: Path) -> None:
    store, run_id, losses = filled(tmp_path, steps=300)
    store.append([EndRecord(run_id, "interrupted")])
    assert live.run_news(store, run_id, 300, 0)["ended"]
    store.requeue(run_id, owner="me")
    store.append([ResumeRecord(run_id, 200)])
    news = live.run_news(store, run_id, 300, 0)
    assert (news["step"], news["ended"]) == (200, False)
    assert live.run_news(store, run_id, 0, 0)["cursor"] == 200
    add(store, run_id, losses, 200, 300)
    assert live.run_news(store, run_id, 0, 0)["cursor"] == 300
