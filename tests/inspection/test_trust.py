import numpy as np
import pytest

from softprompt_core.inspection.null import null_vectors
from softprompt_core.inspection.retention import Retention
from softprompt_core.inspection.trust import stability, trust


def kept(low, value=0.9, of_change=None):
    return Retention(value, low, 1.0, of_change, 0.3, 0.02, "")


def test_score_is_the_weakest_term_and_names_it():
    found = trust(kept(0.8), above_null=0.4, stability=0.9, echo=0.1)
    assert (found.score, found.band, found.limiting) == (pytest.approx(40), "partial", "above_null")
    assert "40%" in found.sentence


def test_a_single_run_is_never_called_readable():
    found = trust(kept(1.0, value=1.0), above_null=1.0, stability=None, echo=0.0)
    assert (found.score, found.band, found.limiting) == (69, "partial", "stability")
    assert "second seed" in found.sentence


def test_three_strong_terms_are_readable():
    assert trust(kept(0.9), above_null=0.95, stability=0.8, echo=0.0).band == "readable"


def test_no_headroom_is_not_measurable():
    found = trust(
        Retention(None, None, None, None, 0.01, 0.02, "The prompt beats nothing."), above_null=1.0, stability=1.0,
        echo=0.0,
    )
    assert (found.score, found.band) == (None, "not_measurable")
    assert found.sentence == "Not measurable: the prompt beats nothing."


def test_echo_and_change_stand_in_the_sentence():
    found = trust(kept(0.75, value=0.75, of_change=0.0), above_null=1.0, stability=0.9, echo=0.9)
    assert "75% of its gain" in found.sentence
    assert "0% of what training added" in found.sentence
    assert "90% of the words only repeat" in found.sentence


def test_a_negative_bound_counts_as_nothing():
    assert trust(kept(-0.4), above_null=0.5, stability=None, echo=None).score == 0


def test_stability_is_one_for_the_same_prompt_and_near_zero_for_random_ones(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    assert stability([prompt, prompt], vocabulary) == pytest.approx(1.0)
    draws = null_vectors(vocabulary, draws=60, seed=5)
    assert abs(stability([draws[:20], draws[20:40], draws[40:]], vocabulary)) < 0.15
    assert stability([prompt], vocabulary) is None


def test_nearer_words_are_more_stable(vocabulary, ten_words):
    rng = np.random.default_rng(0)
    prompt = vocabulary.table[ten_words]
    noise = rng.standard_normal(prompt.shape).astype(np.float32) * prompt.std()
    near, far = (stability([prompt, prompt + share * noise], vocabulary) for share in (0.2, 2.0))
    assert near > far
