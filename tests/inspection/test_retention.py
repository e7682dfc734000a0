import numpy as np
import pytest

from softprompt_core.initialisers import ordinary_word_ids
from softprompt_core.inspection.effect import Outcome
from softprompt_core.inspection.retention import random_words, retention, rung
from softprompt_core.models import embedding_table


def outcome(correct):
    scores = np.where(np.array(correct)[:, None], [[0.0, -5.0]], [[-5.0, 0.0]])
    return Outcome(scores, np.zeros(len(correct), int), np.array([2, 2]))


def of_accuracy(share, rows=400, seed=0):
    return outcome(np.random.default_rng(seed).permutation(rows) < share * rows)


RANDOM = [of_accuracy(0.5, seed=seed) for seed in range(32)]


def test_words_that_do_what_the_prompt_does_keep_everything():
    soft = of_accuracy(0.9)
    found = retention(soft, soft, RANDOM)
    assert found.value == pytest.approx(1.0)
    assert found.low == pytest.approx(1.0)


def test_words_no_better_than_random_ones_keep_nothing():
    found = retention(of_accuracy(0.9), of_accuracy(0.5, seed=99), RANDOM)
    assert found.value == pytest.approx(0.0, abs=1e-9)
    assert found.low < 0 < found.high


def test_half_the_gain_is_half():
    found = retention(of_accuracy(0.9), of_accuracy(0.7, seed=7), RANDOM)
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.5 < found.high


def test_without_headroom_it_is_not_measurable():
    found = retention(of_accuracy(0.52), of_accuracy(0.52), RANDOM)
    assert found.value is None
    assert "random words" in found.reason


def test_an_echo_has_nothing_of_what_training_added():
    start_words = of_accuracy(0.6, seed=5)
    found = retention(of_accuracy(0.9), start_words, RANDOM, start=of_accuracy(0.6, seed=4), start_words=start_words)
    assert found.of_change == 0.0


def test_change_is_unknown_where_training_changed_nothing():
    soft = of_accuracy(0.9)
    assert retention(soft, soft, RANDOM, start=soft, start_words=soft).of_change is None


def test_planted_words_score_exactly_as_the_prompt(studied, ten_words):
    planted = embedding_table(studied.effect.base)[ten_words].numpy()
    assert np.array_equal(studied.effect.of(planted).scores, studied.effect.of_words(ten_words).scores)


def test_random_words_are_drawn_by_seed(studied):
    pool = ordinary_word_ids(studied.effect.base.tokenizer)
    part = studied.effect.part(range(20))
    first, again = ([o.loss for o in random_words(part, pool, length=8, draws=3, seed=2)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 3


def test_a_rung_of_draws_shows_their_spread():
    found = rung("random", RANDOM)
    assert found.accuracy == pytest.approx(0.5)
    assert found.accuracy_low <= 0.5 <= found.accuracy_high
