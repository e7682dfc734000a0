import numpy as np
import pytest

from softprompt_core.errors import UserError
from softprompt_core.inspection.pairs import likeness, line


def test_shuffled_tokens_are_matched_back(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    found = likeness(prompt, prompt[order], vocabulary)
    assert [order[m.second] for m in found.matches] == list(range(10))
    assert all(m.cosine == pytest.approx(1.0) for m in found.matches)


def test_a_shared_start_is_told_from_shared_learning(vocabulary, ten_words):
    start = vocabulary.table[ten_words]
    rng = np.random.default_rng(0)
    scale = 0.3 * np.linalg.norm(start, axis=1).mean() / np.sqrt(start.shape[1])
    first, second = (start + scale * rng.standard_normal(start.shape).astype(np.float32) for _ in range(2))
    found = likeness(first, second, vocabulary, first_start=start, second_start=start)
    assert found.raw > 0.8
    assert abs(found.of_change) < 0.2
    assert found.is_start_dominated
    alone = likeness(first, first, vocabulary, first_start=start, second_start=start)
    assert not alone.is_start_dominated


def test_shared_words_are_held_against_chance(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    same = likeness(prompt, prompt, vocabulary)
    assert len(same.shared) > 20 * same.shared_by_chance
    assert same.chance < 1e-6
    other = likeness(prompt[:2], -prompt[2:4], vocabulary)
    assert other.raw is not None
    assert other.chance > same.chance


def test_prompts_of_other_lengths_are_matched_but_not_compared_in_place(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    found = likeness(prompt[:4], prompt, vocabulary)
    assert found.raw is None
    assert [m.second for m in found.matches] == [0, 1, 2, 3]


def test_the_lines_ends_are_the_prompts_own_outcomes(studied):
    part = studied.effect.part(range(40))
    found = line(part, studied.start, studied.prompt, points=3)
    for point, prompt in ((found[0], studied.start), (found[-1], studied.prompt)):
        outcome = part.of(prompt)
        assert point.accuracy == outcome.accuracy
        assert point.loss == pytest.approx(outcome.loss, rel=1e-5)


def test_a_line_between_unlike_lengths_is_refused(studied):
    with pytest.raises(UserError, match="same length"):
        line(studied.effect, studied.prompt, studied.prompt[:4])
