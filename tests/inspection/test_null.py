"""The baseline of nearest words: random vectors score near zero, words stand out, seeds decide."""

import numpy as np
import pytest

from softprompt_core.errors import UserError
from softprompt_core.inspection.null import null_distribution, null_scores, null_vectors
from softprompt_core.inspection.vocabulary import listed_covariance


def test_gaussian_prompts_score_near_zero(vocabulary):
    rng = np.random.default_rng(7)
    width = vocabulary.table.shape[1]
    isotropic = rng.standard_normal((400, width)).astype(np.float32)
    matched = rng.standard_normal((400, width)) @ np.linalg.cholesky(listed_covariance(vocabulary)).T
    for prompt in (isotropic, 100 * isotropic, matched.astype(np.float32)):
        assert (np.abs(null_scores(prompt, vocabulary)) <= 3).mean() >= 0.95


def test_words_stand_above_chance_and_drown_in_noise(vocabulary, ten_words):
    rows = vocabulary.table[ten_words]
    noise = np.random.default_rng(0).standard_normal(rows.shape) / np.sqrt(rows.shape[1])
    noise *= np.linalg.norm(rows, axis=1, keepdims=True)
    assert (null_scores(rows, vocabulary) > 3).all()
    assert (null_scores((rows + 0.3 * noise).astype(np.float32), vocabulary) > 3).all()
    assert (null_scores((rows + 8 * noise).astype(np.float32), vocabulary) < 3).mean() >= 0.9


def test_null_vectors_have_the_words_covariance_and_norms(make_vocabulary):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((4_000, 6)) @ np.diag([5, 3, 1, 1, 0.5, 0.1]) + 10
    small = make_vocabulary(table)
    vectors = null_vectors(small, draws=4_000, seed=0)
    norms = np.linalg.norm(vectors, axis=1)
    assert abs(np.median(norms) - np.median(small.norms)) < 0.05 * np.median(small.norms)
    spread = (vectors / norms[:, None]).std(axis=0)
    assert list(np.argsort(-spread))[:2] == [0, 1]
    assert spread[5] == spread.min()
    assert np.abs((vectors / norms[:, None]).mean(axis=0)).max() < 0.05


def test_seed_decides(make_vocabulary):
    table = np.random.default_rng(0).standard_normal((500, 16))
    prompt = table[:3].astype(np.float32)
    one, same, other = (null_scores(prompt, make_vocabulary(table), seed=seed) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).all()


def test_null_is_computed_once(vocabulary):
    first = null_distribution(vocabulary, draws=200, seed=0)
    assert null_distribution(vocabulary, draws=200, seed=0) is first


def test_zeros_have_no_score(make_vocabulary):
    assert np.isnan(null_scores(np.zeros((1, 8), np.float32), make_vocabulary(np.eye(8)))).all()


def test_few_draws_are_refused(make_vocabulary):
    with pytest.raises(UserError, match="200 is enough"):
        null_scores(np.ones((1, 4), np.float32), make_vocabulary(np.eye(4)), draws=1)
