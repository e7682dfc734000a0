"""The pretraining recipe: what is held out stays out, a resumed run equals an unbroken one, tasks say what they ask."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "pretrain"))

from checkpoint import load_checkpoint, save_checkpoint
from corpus import Document, hold_out_tail, read_documents, write_documents
from keep_out import KeepOut, near_copies, read_keep_out, word_set
from loop import Progress, Recipe, held_out_loss, make_loss, make_optimisers, rate_scale, train
from network import build_model, export_model, grow_model
from opinions import write_opinion
from questions import made_questions, question_kind
from situations import write_feeling, write_mail
from task import Task, namings
from tokens import Stream
from verbalise import unmark, write_tasks

VOCABULARY, WIDTH = 48, 32


def recipe(**changes) -> Recipe:
    values = {
        "minutes": None, "tokens": 6 * 4 * 16, "device": "cpu", "mix": {"a": 0.5, "b": 0.5}, "batch": 4, "length": 16,
        "muon_rate": 0.01, "adam_rate": 1e-3, "answer_weight": 3.0, "decay": 0.4, "warmup_steps": 2, "seed": 1,
    }
    return Recipe(**{**values, **changes})


def streams() -> dict[str, Stream]:
    ids = {name: (2 + np.arange(400) * stride % 11).astype(np.uint16) for name, stride in (("a", 1), ("b", 3))}
    return {name: Stream(found, (found % 5 == 0).astype(np.uint8)) for name, found in ids.items()}


def tiny_model():
    torch.manual_seed(0)
    return build_model(torch.randn(VOCABULARY, WIDTH) * 0.02, layers=2, heads=2, context=32, end=0, pad=1)


def run_steps(model, optimisers, *, progress: Progress, steps: int) -> Progress:
    found = train(
        model, optimisers, streams(), loss_of=make_loss(model, "cpu"), recipe=recipe(), progress=progress
    )
    for _ in range(steps):
        progress, _ = next(found)
    return progress


# ------------------------------------------------------------- what is held out


def test_the_held_out_tail_is_whole_documents_and_at_most_a_tenth():
    documents = [Document("x" * 50 + str(i)) for i in range(100)]
    split = hold_out_tail(documents)
    assert split.train + split.held_out == documents
    assert 0 < sum(len(d.text) for d in split.held_out) <= sum(len(d.text) for d in documents) // 10 + 52


def test_documents_survive_writing_and_reading(tmp_path):
    documents = [Document("plain"), Document("Text: a\nLabel: b", ((15, 16),))]
    write_documents(tmp_path / "d.jsonl", documents)
    assert list(read_documents(tmp_path / "d.jsonl")) == documents


def test_keep_out_reads_sentences_and_passes_over_labels(tmp_path):
    (tmp_path / "test.csv").write_text("text,label\n\"The lift stopped, again!\",complaint\n", encoding="utf-8")
    assert read_keep_out([tmp_path / "test.csv"]).normalised == {"theliftstoppedagain"}


def test_a_near_copy_of_a_kept_out_sentence_is_found():
    kept = KeepOut(frozenset(), (word_set("The lift in our house stopped again this morning"),))
    texts = ["the lift in our house stopped this morning!", "The bus stopped in our street", ""]
    assert near_copies(texts, kept) == [True, False, False]


# ------------------------------------------------------------------ the loop


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    whole = tiny_model()
    run_steps(whole, make_optimisers(whole, recipe()), progress=Progress(), steps=6)

    first = tiny_model()
    optimisers = make_optimisers(first, recipe())
    progress = run_steps(first, optimisers, progress=Progress(), steps=3)
    save_checkpoint(tmp_path, first, optimisers, {"step": progress.step, "tokens": progress.tokens, "seconds": 0.0})
    second = tiny_model()
    optimisers = make_optimisers(second, recipe())
    saved = load_checkpoint(tmp_path, second, optimisers)
    assert saved["step"] == 3
    run_steps(second, optimisers, progress=Progress(**saved), steps=3)

    for (name, one), other in zip(whole.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_training_ends_with_its_budget_and_lowers_the_loss():
    model = tiny_model()
    asked = recipe(tokens=40 * 4 * 16, adam_rate=1e-2)
    before = held_out_loss(make_loss(model, "cpu"), streams(), asked, windows=4)
    steps = list(train(
        model, make_optimisers(model, asked), streams(), loss_of=make_loss(model, "cpu"), recipe=asked,
        progress=Progress(),
    ))
    after = held_out_loss(make_loss(model, "cpu"), streams(), asked, windows=4)
    assert steps[-1][0].tokens == 40 * 4 * 16
    assert all(after[source] < before[source] for source in before)


def test_rates_warm_up_stay_and_decay():
    asked = recipe(warmup_steps=10, decay=0.4)
    assert rate_scale(0.0, 0, asked) == pytest.approx(0.1)
    assert rate_scale(0.5, 100, asked) == 1.0
    assert rate_scale(0.8, 100, asked) == pytest.approx(0.5)
    assert rate_scale(1.0, 100, asked) == pytest.approx(0.01)


def test_a_grown_model_computes_what_the_small_one_did(tmp_path):
    small = tiny_model().eval()
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    export_model(small, tmp_path)
    grown = grow_model(tmp_path, 3).eval()
    ids = torch.arange(2, 18)[None]
    kept = type(small).from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(grown(ids).logits, kept(ids).logits)


# ----------------------------------------------------------------- the tasks


def test_answers_are_the_marked_characters():
    document = unmark("Text: a\nLabel: \x01good\x02\n\nText: b\nLabel: \x01bad\x02")
    assert [document.text[start:end] for start, end in document.answers] == ["good", "bad"]
    assert "\x01" not in document.text


def test_every_task_document_asks_for_an_answer():
    rows = [("It is fine.", "positive"), ("It is bad.", "negative")] * 20
    task = Task("tone", rows, ("What is the tone?",), namings("positive negative", "good bad"))
    documents = list(write_tasks([task], random.Random(0), 200))
    assert all(document.answers for document in documents)
    named = [d.text for d in documents if d.text.startswith("Classify the text as ")]
    assert any(text.startswith("Classify the text as negative or positive:\n") for text in named)


@pytest.mark.parametrize(("question", "kind"), [
    ("Who built the tower?", "person"),
    ("What famous city lies on the river?", None),
    ("Which country won?", "place"),
    ("How many bridges are there?", "number"),
    ("How do bees fly?", "manner"),
    ("What is a comet?", "definition"),
])
def test_first_words_tell_the_kind_of_a_question(question, kind):
    assert question_kind(question) == kind


def test_made_questions_are_of_every_kind_and_hold_no_open_slot():
    wiki = "Ada Lovelace was born in London, near the old town of the sea. The Royal Navy Fund (RNF) was a bank."
    rows = made_questions([wiki] * 3, random.Random(0), rounds=40)
    assert {kind for _, kind in rows} >= {"person", "place", "thing", "number", "abbreviation", "definition", "reason"}
    assert not [text for text, _ in rows if "{" in text or "}" in text]


@pytest.mark.parametrize(("write", "labels"), [
    (write_opinion, {"positive", "negative"}),
    (write_mail, {"complaint", "other"}),
    (write_feeling, {"anger", "joy", "fear", "sadness", "optimism"}),
])
def test_written_messages_cover_their_labels_and_hold_no_open_slot(write, labels):
    rng = random.Random(0)
    rows = [write(rng) for _ in range(400)]
    assert {label for _, label in rows} == labels
    assert not [text for text, _ in rows if "{" in text or "|" in text]
