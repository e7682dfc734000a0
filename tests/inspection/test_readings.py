"""The cheap readings together, and the document that other programs rely on."""

import json

import numpy as np
import pytest

from softprompt_core.errors import UserError
from softprompt_core.inspection.readings import inspection_document, read_tokens, words_line


def test_planted_prompt_reads_as_its_words(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    readings = read_tokens(prompt, vocabulary, start=prompt, top=3)
    assert [r.index for r in readings] == list(range(10))
    for reading, id in zip(readings, ten_words, strict=True):
        assert reading.neighbours[0].id == id
        assert reading.start_token == reading.neighbours[0].token == vocabulary.texts[id]
        assert reading.echo is True
        assert reading.displacement == 0
        assert reading.z > 3
        assert reading.norm == pytest.approx(vocabulary.norms[id])


def test_norm_percentile_counts_words_that_are_no_longer(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words[:1]]
    shell = vocabulary.norms[vocabulary.is_listed]
    expected = 100 * (shell <= vocabulary.norms[ten_words[0]]).mean()
    assert read_tokens(prompt, vocabulary)[0].norm_percentile == pytest.approx(expected)
    assert read_tokens(prompt * 1e3, vocabulary)[0].norm_percentile == 100
    assert read_tokens(prompt * 1e-3, vocabulary)[0].norm_percentile == 0


def test_echo_tells_kept_words_from_changed_ones(vocabulary, ten_words):
    start = vocabulary.table[ten_words[:3]]
    prompt = vocabulary.table[[ten_words[0], ten_words[1], ten_words[9]]]
    readings = read_tokens(prompt, vocabulary, start=start)
    assert [r.echo for r in readings] == [True, True, False]
    assert readings[2].start_token == vocabulary.texts[ten_words[2]]
    assert readings[2].displacement == pytest.approx(np.linalg.norm(prompt[2] - start[2]))


def test_what_needs_a_start_is_unknown_without_one(vocabulary, ten_words):
    reading = read_tokens(vocabulary.table[ten_words[:1]], vocabulary)[0]
    assert reading.echo is None
    assert reading.start_token is None
    assert reading.displacement is None


def test_start_of_another_length_is_refused(vocabulary, ten_words):
    with pytest.raises(UserError, match="same run"):
        read_tokens(vocabulary.table[ten_words], vocabulary, start=vocabulary.table[ten_words[:3]])


def test_words_line_names_word_cosine_and_change(vocabulary, ten_words):
    good, bad = vocabulary.table[ten_words[:2]]
    assert words_line(np.stack([good, bad]), vocabulary) == "␣good 1.00 · ␣bad 1.00"
    moved = words_line(np.stack([good, bad]), vocabulary, start=np.stack([good, good]))
    assert moved == "␣good 1.00 · ␣good→␣bad 1.00"


def test_document_has_exactly_the_promised_fields(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    document = inspection_document(prompt, vocabulary, start=prompt, top=4, metric="l2", correction="centred")
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) == {"tokens", "projection", "trust"}
    assert set(document["tokens"][0]) == {"index", "norm", "norm_percentile", "z", "echo", "neighbours"}
    assert len(document["tokens"]) == 10
    assert len(document["tokens"][0]["neighbours"]) == 4
    assert set(document["tokens"][0]["neighbours"][0]) == {"id", "token", "score"}
    assert set(document["projection"]) == {"explained_variance", "points"}
    assert set(document["projection"]["points"][0]) == {"index", "x", "y", "z", "share_in_plane"}
    assert len(document["projection"]["explained_variance"]) == 3
    assert set(document["trust"]) == {
        "score",
        "band",
        "limiting",
        "retention",
        "retention_low",
        "above_null",
        "stability",
        "echo",
        "retention_of_change",
        "sentence",
    }


def test_trust_is_null_where_the_model_was_not_asked(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    trust = inspection_document(prompt, vocabulary, start=prompt)["trust"]
    for name in (
        "score",
        "band",
        "limiting",
        "retention",
        "retention_low",
        "stability",
        "retention_of_change",
    ):
        assert trust[name] is None
    assert trust["above_null"] == 1
    assert trust["echo"] == 1
    assert "Not measured" in trust["sentence"]
    assert "10 of 10 only repeat the start" in trust["sentence"]
    assert inspection_document(prompt, vocabulary)["trust"]["echo"] is None


def test_a_prompt_of_zeros_is_read_without_made_up_numbers(vocabulary):
    prompt = np.zeros((2, vocabulary.table.shape[1]), np.float32)
    document = inspection_document(prompt, vocabulary, start=prompt)
    assert document["tokens"][0]["z"] is None
    assert document["tokens"][0]["echo"] is None
    assert document["tokens"][0]["neighbours"] == []
    assert document["trust"]["above_null"] == 0
    json.dumps(document, allow_nan=False)
    assert words_line(prompt, vocabulary) == "(no direction) · (no direction)"
