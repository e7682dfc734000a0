"""Bundled data: enough rows, of the promised lengths and balance, and no split that repeats another."""

from __future__ import annotations

import itertools
import re

import pytest

from softprompt_core.config import TrainConfig
from softprompt_core.data import Task, load_task
from softprompt_core.sources import BUNDLED_FOLDER, list_bundled

MOST_WORDS = {"questions": 25}
MOST_ALIKE = {"questions": 0.6}
# Short questions share their frame, "what is the … of …", so it is set aside when they are compared.
FRAME = {"questions": frozenset(["what", "who", "is", "the", "of", "a", "in", "did", "does", "was"])}
ROWS = {"complaints": 600}


@pytest.fixture(scope="module", params=list_bundled())
def task(request) -> Task:
    return load_task(TrainConfig(data=request.param))


def texts(task: Task) -> list[tuple[str, str]]:
    return [(split, row[task.text_column]) for split, rows in task.splits.items() for row in rows]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", text.lower()))


def test_every_folder_is_listed():
    assert list_bundled() == sorted(p.name for p in BUNDLED_FOLDER.iterdir() if p.is_dir())


def test_all_three_splits_have_files_of_their_own(task):
    for split in ("train", "validation", "test"):
        assert (BUNDLED_FOLDER / task.name / f"{split}.csv").is_file()


def test_columns_are_text_and_label(task):
    assert (task.columns, task.text_column, task.label_column) == (("text", "label"), "text", "label")


def test_no_row_is_dropped_and_none_is_missing(task):
    assert task.dropped_rows == 0
    assert len(task.splits["test"]) >= 200
    assert len(texts(task)) == ROWS.get(task.name, len(texts(task)))


def test_texts_have_the_promised_length(task):
    most = MOST_WORDS.get(task.name, 40)
    assert [text for _, text in texts(task) if not 3 <= len(text.split()) <= most] == []


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_class_has_about_its_even_share(task, split):
    counts = task.label_counts(split)
    assert set(counts) == set(task.labels)
    even = sum(counts.values()) / len(counts)
    assert all(0.7 <= count / even <= 1.4 for count in counts.values()), counts


def test_no_text_occurs_twice(task):
    found = [text.casefold() for _, text in texts(task)]
    assert len(set(found)) == len(found)


def test_no_near_duplicates_across_splits(task):
    frame = FRAME.get(task.name, frozenset())
    found = [(split, text, words(text) - frame) for split, text in texts(task)]
    most = MOST_ALIKE.get(task.name, 0.5)
    alike = [
        (one, other)
        for (split, one, a), (other_split, other, b) in itertools.combinations(found, 2)
        if split != other_split and len(a & b) >= most * len(a | b)
    ]
    assert alike == []


def test_no_handles_and_no_addresses(task):
    assert [text for _, text in texts(task) if "@" in text or "http" in text.lower() or "www." in text.lower()] == []


def test_folder_says_what_it_is_and_under_which_licence(task):
    card = (BUNDLED_FOLDER / task.name / "README.md").read_text(encoding="utf-8")
    assert "CC0" in card
