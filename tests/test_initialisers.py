from __future__ import annotations

import pytest
import torch

from softprompt_core import initialisers
from softprompt_core.errors import UserError
from softprompt_core.models import embedding_table, load_model, load_tokenizer


@pytest.fixture(scope="module")
def table():
    return embedding_table(load_model("bundled"))


@pytest.fixture(scope="module")
def words():
    return initialisers.ordinary_word_ids(load_tokenizer("bundled"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_random_has_the_scale_of_the_table_and_peft_random_has_not(table):
    ours = initialisers.random(table, length=200, generator=seeded())
    theirs = initialisers.peft_random(table, length=200, generator=seeded())
    assert ours.std().item() == pytest.approx(table.std().item(), rel=0.02)
    assert theirs.std().item() == pytest.approx(1.0, rel=0.02)


def test_random_uniform_fills_its_range_and_stays_in_it(table):
    prompt = initialisers.random_uniform(table, length=200, generator=seeded(), limit=0.5)
    assert prompt.abs().max().item() <= 0.5
    assert prompt.std().item() == pytest.approx(1 / 12**0.5, rel=0.02)


def test_sampled_vocab_is_distinct_rows_of_ordinary_words(table, words):
    prompt = initialisers.sampled_vocab(table, length=50, generator=seeded(), word_ids=words)
    found = [int((table == row).all(1).nonzero()[0]) for row in prompt]
    assert len(set(found)) == 50
    assert set(found) <= set(words)


def test_ordinary_words_leave_out_special_tokens_bytes_and_pieces(words):
    tokenizer = load_tokenizer("bundled")
    texts = [tokenizer.decode([i]) for i in words]
    assert all(text.startswith(" ") and text[1:].isalpha() and len(text) > 2 for text in texts)
    assert len(words) == initialisers.COMMON_WORDS


def test_text_is_repeated_or_cut_to_the_length(table):
    assert torch.equal(initialisers.text(table, length=5, token_ids=[7, 9]), table[[7, 9, 7, 9, 7]])
    assert torch.equal(initialisers.text(table, length=2, token_ids=[7, 9, 11]), table[[7, 9]])


def test_text_without_tokens_is_refused(table):
    with pytest.raises(UserError, match="Write a few words"):
        initialisers.text(table, length=5, token_ids=[])


def test_class_labels_come_first_as_means_of_their_pieces(table, words):
    prompt = initialisers.class_labels(
        table, length=6, label_ids=[[40, 41], [50]], generator=seeded(), word_ids=words
    )
    assert torch.allclose(prompt[0], table[[40, 41]].mean(0))
    assert torch.equal(prompt[1], table[50])
    assert prompt.shape == (6, 256)


def test_more_labels_than_tokens_keep_the_first_labels(table, words):
    prompt = initialisers.class_labels(
        table, length=1, label_ids=[[40], [50]], generator=seeded(), word_ids=words
    )
    assert torch.equal(prompt, table[[40]])


def test_first_rows_are_the_first_rows(table):
    assert torch.equal(initialisers.first_rows(table, length=4), table[:4])


def test_too_many_words_to_sample_names_the_number_there_is(table):
    with pytest.raises(UserError, match="only 3 ordinary words"):
        initialisers.sampled_vocab(table, length=4, generator=seeded(), word_ids=[5, 6, 7])


def test_same_seed_gives_the_same_start_and_another_seed_another(table, words):
    def draw(seed):
        return initialisers.sampled_vocab(table, length=8, generator=seeded(seed), word_ids=words)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
