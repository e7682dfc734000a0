"""Readings in the background: made once, kept under a key of what they depend on, cancellable, honest on failing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softprompt_core import studies
from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.inspection import study
from softprompt_core.models import embedding_table, load_model
from softprompt_core.records import EndRecord, Snapshot, StartRecord
from softprompt_core.store import Store
from softprompt_core.studies import Readings

WAIT_SECONDS = 90


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 short rows, so that 24 are for testing."""
    path = tmp_path_factory.mktemp("rows") / "mail.csv"
    rows = [f"parcel {i} came late,bad\nparcel {i} came early,good\n" for i in range(80)]
    path.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def add(store: Store, rows_csv: Path) -> Callable[..., str]:
    """Makes a finished run whose prompt is rows of the vocabulary."""

    def made(*, seed: int = 0, first: int = 400, length: int = 2, **settings: Any) -> str:
        config = TrainConfig(**{"data": str(rows_csv), "virtual_tokens": length, "seed": seed, "steps": 5, **settings})
        prompt = embedding_table(load_model("bundled"))[first:first + length].numpy()
        run_id = store.create(config, status="running")
        store.append([
            StartRecord(run_id, {}), Snapshot(run_id, 0, prompt + 1), Snapshot(run_id, 5, prompt, "selected"),
            EndRecord(run_id, "done", "", {}),
        ])
        return run_id

    return made


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A reading "counted" that needs no model and notes each time that it is made."""
    calls: list[str] = []

    def counted(subject: study.Subject) -> Iterator[float]:
        calls.append("made")
        yield 0.5
        return {"calls": len(calls), "norm": float(np.linalg.norm(subject.prompt))}

    monkeypatch.setitem(study.READINGS, "counted", counted)
    return calls


def ended(readings: Readings, run_id: str) -> dict[str, studies.Progress]:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(p.stage in studies.UNDER_WAY for p in readings.progress(run_id).values()):
        assert time.monotonic() < deadline, readings.progress(run_id)
        time.sleep(0.02)
    return readings.progress(run_id)


def test_a_reading_is_made_once_and_taken_from_the_folder_afterwards(
    store: Store, add: Callable[..., str], counted: list[str]
) -> None:
    run_id = add()
    first = studies.read(store, run_id, ["counted"])
    assert studies.read(Store(store.root), run_id, ["counted"]) == first
    assert counted == ["made"]
    assert studies.kept_readings(store, run_id)["counted"] == first["counted"]


def test_another_prompt_or_another_seed_makes_it_anew(
    store: Store, add: Callable[..., str], counted: list[str]
) -> None:
    run_id = add()
    studies.read(store, run_id, ["counted"])
    add(seed=1, first=500)
    assert studies.kept_readings(store, run_id)["counted"] is None
    studies.read(store, run_id, ["counted"])
    other = embedding_table(load_model("bundled"))[600:602].numpy()
    store.append([Snapshot(run_id, 5, other, "selected")])
    studies.read(store, run_id, ["counted"])
    assert counted == ["made"] * 3


def test_siblings_differ_in_their_seed_only_and_count_once_a_seed(store: Store, add: Callable[..., str]) -> None:
    run_id = add()
    older, newer = add(seed=1), add(seed=1)
    third = add(seed=2)
    for different in ({"init": "random"}, {"length": 3}, {"template": "{text} ->"}):
        add(seed=3, **different)
    add(seed=0)
    assert [info.run_id for info in studies.siblings(store, run_id)] == [third, newer]
    assert older != newer


def test_progress_ends_with_the_document_and_the_next_reading_still_comes(
    store: Store, add: Callable[..., str], counted: list[str]
) -> None:
    run_id, readings = add(), Readings(store)
    readings.ask(run_id, ["counted", "signature"])
    found = ended(readings, run_id)
    assert {name: p.stage for name, p in found.items()} == {"counted": "done", "signature": "done"}
    assert found["counted"].document == {"calls": 1, "norm": pytest.approx(found["counted"].document["norm"])}
    assert found["signature"].document is not None
    assert found["signature"].document["raised"]


def test_a_cancelled_reading_keeps_nothing_and_can_be_asked_for_again(
    store: Store, add: Callable[..., str], counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(subject: study.Subject) -> Iterator[float]:
        while True:
            time.sleep(0.01)
            yield 0.3

    monkeypatch.setitem(study.READINGS, "endless", endless)
    run_id, readings = add(), Readings(store)
    readings.ask(run_id, ["endless", "counted"])
    while readings.progress(run_id)["endless"].share == 0:
        time.sleep(0.01)
    readings.cancel(run_id)
    assert {p.stage for p in ended(readings, run_id).values()} == {"cancelled"}
    assert not counted
    assert studies.kept_readings(store, run_id)["endless"] is None
    readings.ask(run_id, ["counted"])
    assert ended(readings, run_id)["counted"].stage == "done"


def test_a_failed_reading_says_why_and_the_others_are_made(
    store: Store, add: Callable[..., str], counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(subject: study.Subject) -> Iterator[float]:
        yield 0.0
        raise UserError("This model cannot be read so. Choose another.")

    def broken(subject: study.Subject) -> Iterator[float]:
        yield 0.0
        raise ZeroDivisionError

    monkeypatch.setitem(study.READINGS, "refused", refused)
    monkeypatch.setitem(study.READINGS, "broken", broken)
    run_id, readings = add(), Readings(store)
    readings.ask(run_id, ["refused", "broken", "counted"])
    found = ended(readings, run_id)
    assert found["refused"].reason == "This model cannot be read so. Choose another."
    assert "ZeroDivisionError" in found["broken"].reason
    assert found["counted"].stage == "done"
    assert studies.read(store, run_id, ["refused"]) == {"refused": {"reason": found["refused"].reason}}


def test_what_cannot_be_asked_for_is_refused_at_once(store: Store, add: Callable[..., str]) -> None:
    run_id, readings = add(), Readings(store)
    for asked, words in (
        ("sense", "There is no reading"), (f"pair:{run_id}", "another run"), ("pair:gone", "There is no run"),
        ("twin: ", "1 to 400 characters"),
    ):
        with pytest.raises(UserError, match=words):
            readings.ask(run_id, [asked])
    with pytest.raises(UserError, match="There is no run"):
        readings.ask("gone", ["ladder"])
    assert readings.progress(run_id) == {}


def test_two_prompts_of_unequal_length_have_matches_and_no_line(store: Store, add: Callable[..., str]) -> None:
    first, second = add(length=2), add(length=3)
    found = studies.read(store, first, [f"pair:{second}"])[f"pair:{second}"]
    assert [(m["first"], m["second"]) for m in found["matches"]] == [(0, 0), (1, 1)]
    assert found["matches"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["line"] is None
    assert "2 and 3 virtual tokens" in found["line_reason"]
    third = add(length=2, seed=4)
    assert len(studies.read(store, first, [f"pair:{third}"])[f"pair:{third}"]["line"]) == 11


def test_a_twin_is_kept_with_its_vectors_and_can_become_a_run(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from softprompt_core.inspection import beside

    twin = beside.twin
    monkeypatch.setattr(beside, "twin", lambda subject, text: twin(subject, text, steps=2))
    run_id = add()
    with pytest.raises(UserError, match="Train one first"):
        studies.keep_twin(store, run_id)
    found = studies.read(store, run_id, ["twin:money water"])["twin:money water"]
    assert found["words"] == ["␣money", "␣water"]
    assert [rung["kind"] for rung in found["rungs"]] == ["prompt", "twin", "words", "no_prompt"]
    kept = studies.keep_twin(store, run_id)
    assert np.array_equal(store.prompt(kept), studies.twin_prompt(store, run_id))
    assert store.run(kept).status == "done"
    assert [info.run_id for info in studies.siblings(store, add(seed=1))] == [run_id]     # the twin is no sibling


def test_the_inspection_holds_what_is_kept_and_null_for_the_rest(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add()
    document = studies.inspection_with_readings(store, run_id, top=2)
    assert set(document["readings"].values()) == {None}
    assert document["trust"]["score"] is None
    trust = {**document["trust"], "score": 12.0, "band": "do_not_read"}

    def ladder(subject: study.Subject) -> Iterator[float]:
        yield 0.5
        return {"trust": trust}

    monkeypatch.setitem(study.READINGS, "ladder", ladder)
    shares: list[tuple[str, float]] = []
    made = studies.inspection_with_readings(
        store, run_id, names=["ladder"], on_share=lambda name, share: shares.append((name, share)), top=2
    )
    assert made["trust"] == trust
    assert shares == [("ladder", 0.5)]
    assert studies.inspection_with_readings(store, run_id, top=2)["trust"] == trust


def test_an_imported_prompt_without_data_says_what_can_be_read(store: Store, add: Callable[..., str]) -> None:
    run_id = add(data="imported")
    with pytest.raises(UserError, match="nearest words, norms and map can still be read"):
        studies.subject_of(store, run_id)
