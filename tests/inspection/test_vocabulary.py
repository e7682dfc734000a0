"""Which rows count as words, and the statistics that other readings share."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softprompt_core.errors import UserError
from softprompt_core.inspection import vocabulary as module
from softprompt_core.inspection.vocabulary import (
    build_vocabulary,
    checked_vectors,
    kept,
    listed_covariance,
    listed_mean,
    never_trained,
    row_norms,
    vocabulary_of,
)
from softprompt_core.models import embedding_table, load_model, load_tokenizer


def test_left_out_rows_are_counted_once(vocabulary):
    assert sum(vocabulary.left_out.values()) == (~vocabulary.is_listed).sum()
    assert vocabulary.left_out["special tokens"] == 2
    assert vocabulary.left_out["beyond the tokenizer"] == 0


def test_listed_ids_encode_back_to_themselves(vocabulary):
    tokenizer = load_tokenizer("bundled")
    for id in range(len(vocabulary.texts)):
        text = tokenizer.decode([id], clean_up_tokenization_spaces=False)
        back = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert not vocabulary.is_listed[id] or back == [id]


def test_unused_bytes_are_left_out_and_words_are_not(vocabulary, ten_words):
    unused = load_tokenizer("bundled").convert_tokens_to_ids(["Ā", "ÿ", "irlines"])
    assert not vocabulary.is_listed[unused].any()
    assert vocabulary.is_listed[ten_words].all()
    assert vocabulary.is_whole_word[ten_words].all()
    assert not vocabulary.is_whole_word[vocabulary.texts.index("ing")]


def test_vocabulary_is_made_once_and_shares_the_table():
    base = load_model("bundled")
    assert vocabulary_of(base) is vocabulary_of(base)
    assert np.shares_memory(vocabulary_of(base).table, embedding_table(base).numpy())


def test_rows_beyond_the_tokenizer_are_left_out(vocabulary):
    rng = np.random.default_rng(0)
    padding = rng.standard_normal((64, vocabulary.table.shape[1])).astype(np.float32)
    padded = build_vocabulary(np.concatenate([vocabulary.table, padding]), load_tokenizer("bundled"))
    assert padded.left_out["beyond the tokenizer"] == 64
    assert not padded.is_listed[-64:].any()
    assert padded.texts[-1] == f"⟨id {len(padded.texts) - 1}⟩"


def test_rows_that_never_moved_are_found():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((2_000, 64)).astype(np.float32)
    table[100:140] = 3.0 + 0.001 * rng.standard_normal((40, 64))  # met where no text took them
    table[140:145] = 3.0 + 0.1 * rng.standard_normal((5, 64))  # hardly left that place
    table[200] *= 1e-4
    found = never_trained(table, row_norms(table))
    assert set(np.flatnonzero(found)) == {*range(100, 145), 200}


def test_ordinary_rows_are_never_called_untrained():
    rng = np.random.default_rng(1)
    shared = 5 * rng.standard_normal(64)  # an anisotropic table: every cosine is above 0.9
    table = (shared + rng.standard_normal((3_000, 64))).astype(np.float32)
    assert not never_trained(table, row_norms(table)).any()


def test_pieces_of_sentencepiece_count_with_and_without_space():
    vocab = {
        "<unk>": 0,
        "<s>": 1,
        "▁": 2,
        "t": 3,
        "h": 4,
        "e": 5,
        "▁t": 6,
        "he": 7,
        "▁the": 8,
        "the": 9,
        "«": 10,
    }
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("t", "he")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    table = np.random.default_rng(0).standard_normal((11, 8)).astype(np.float32)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    found = build_vocabulary(table, wrapped)
    assert [found.texts[i] for i in np.flatnonzero(found.is_whole_word & found.is_listed)] == ["␣t", "␣the"]
    assert found.is_listed[[7, 8, 9]].all()
    assert found.left_out["special tokens"] == 2


def test_a_table_without_words_is_refused():
    tokenizer = load_tokenizer("bundled")
    with pytest.raises(UserError, match="tokenizer belongs to the model"):
        build_vocabulary(np.ones((300, 8), dtype=np.float32), tokenizer)


def test_mean_and_covariance_equal_numpys_over_many_chunks(make_vocabulary, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 77)
    rng = np.random.default_rng(0)
    table = 3 + rng.standard_normal((1_000, 16))
    small = make_vocabulary(table, is_listed=rng.random(1_000) < 0.8)
    rows = small.table[small.is_listed].astype(np.float64)
    np.testing.assert_allclose(listed_mean(small), rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(listed_covariance(small), np.cov(rows.T), atol=1e-12)


def test_kept_results_are_computed_once_and_go_with_their_vocabulary(make_vocabulary):
    calls = []

    @kept
    def size(vocabulary, *, times):
        calls.append(times)
        return len(vocabulary.table) * times

    small = make_vocabulary(np.eye(4))
    assert [size(small, times=2), size(small, times=2), size(small, times=3)] == [8, 8, 12]
    assert calls == [2, 3]
    gone = weakref.ref(small)
    del small
    gc.collect()
    assert gone() is None


def test_statistics_need_little_memory_beyond_the_table(make_vocabulary, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 20)
    big = make_vocabulary(np.random.default_rng(0).standard_normal((40_000, 128), dtype=np.float32))
    tracemalloc.start()
    listed_covariance(big)
    never_trained(big.table, big.norms)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20 < big.table.nbytes


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        (np.zeros((2, 3), np.float32), "4 numbers"),
        (np.zeros(4, np.float32), "4 numbers"),
        (np.zeros((2, 4), np.int64), "floating-point"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]], np.float32), "Virtual token 1"),
        (np.array([[np.inf, 0, 0, 0]], np.float32), "Virtual token 0"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(make_vocabulary, prompt, word):
    with pytest.raises(UserError, match=word):
        checked_vectors(prompt, make_vocabulary(np.eye(4)))
