import numpy as np
import pytest

from softprompt_core.inspection.neighbours import nearest_words
from softprompt_core.inspection.steering import projected_words, wayward_twin


def result(steps):
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as finished:
            return finished.value, seen


def test_pez_gives_listed_words_no_worse_than_where_it_began(studied, vocabulary):
    ids, seen = result(projected_words(studied.effect, studied.prompt, vocabulary, steps=20))
    assert len(ids) == 8
    assert vocabulary.is_listed[ids].all()
    assert [s.step for s in seen] == list(range(1, 21))


@pytest.mark.slow
def test_a_wayward_twin_spells_the_decoy_and_keeps_its_effect(studied, vocabulary, ten_words):
    decoy = ten_words[:4]
    twin, seen = result(wayward_twin(studied.effect, studied.prompt, decoy, steps=150))
    spelled = [words[0].id for words in nearest_words(twin, vocabulary, top=1)]
    assert spelled == [decoy[i % 4] for i in range(8)]
    words_alone = studied.effect.of_words(spelled)
    effect = studied.effect.of(twin)
    assert effect.loss < words_alone.loss - 0.1
    assert len(seen) == 150


def test_a_twin_is_the_same_for_the_same_seed(studied, ten_words):
    first, again = (
        result(wayward_twin(studied.effect, studied.prompt, ten_words[:2], steps=5, seed=3))[0] for _ in range(2)
    )
    assert np.array_equal(first, again)


@pytest.mark.parametrize("steps", [1, 7])
def test_every_length_of_training_gives_a_prompt_of_the_same_shape(studied, ten_words, steps):
    twin, _ = result(wayward_twin(studied.effect, studied.prompt, ten_words, steps=steps))
    assert twin.shape == studied.prompt.shape
