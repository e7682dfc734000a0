"""Nearest words against a brute-force search in float64, and the laws that a reading must obey."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.decomposition import PCA

from softprompt_core.errors import UserError
from softprompt_core.inspection import neighbours as module
from softprompt_core.inspection import vocabulary as vocabulary_module
from softprompt_core.inspection.neighbours import best_cosines, nearest_words
from softprompt_core.inspection.vocabulary import Vocabulary, row_norms

COMBINATIONS = [
    (metric, correction)
    for metric in ("cosine", "dot", "l2")
    for correction in ("none", "centred", "all_but_top")
] + [("cosine", "csls")]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(prompt, vocabulary, *, top, metric, correction, allowed=None):
    """[(id, score), …] for each vector, all in float64 over everything."""
    table = vocabulary.table.astype(np.float64)
    vectors = prompt.astype(np.float64)
    listed = table[vocabulary.is_listed]
    if correction in ("centred", "all_but_top"):
        axes = np.zeros((1, table.shape[1]))
        if correction == "all_but_top":
            axes = PCA(max(1, round(table.shape[1] / 100)), svd_solver="full").fit(listed).components_
        mean = listed.mean(axis=0)
        table, vectors = (rows - mean - (rows - mean) @ axes.T @ axes for rows in (table, vectors))
    if metric == "l2":
        scores = -np.sqrt(((vectors[:, None] - table[None]) ** 2).sum(axis=2))
    elif metric == "dot":
        scores = vectors @ table.T
    else:
        scores = unit(vectors) @ unit(table).T
    if correction == "csls":
        among = unit(table) @ unit(listed).T
        among[np.arange(len(table))[:, None] == np.flatnonzero(vocabulary.is_listed)] = -np.inf
        scores = 2 * scores - np.sort(among, axis=1)[:, -10:].mean(axis=1)
    scores[:, ~(vocabulary.is_listed if allowed is None else allowed)] = -np.inf
    scores = np.round(scores, 11)  # equal rows tie, wherever they lie in a matrix product
    return [[(int(i), row[i]) for i in np.argsort(-row, kind="stable")[:top]] for row in scores]


def assert_same(found, expected):
    for near, truth in zip(found, expected, strict=True):
        assert [n.id for n in near] == [id for id, _ in truth]
        np.testing.assert_allclose([n.score for n in near], [score for _, score in truth], atol=1e-9)


@pytest.mark.parametrize(("metric", "correction"), COMBINATIONS)
def test_equals_brute_force(make_vocabulary, monkeypatch, metric, correction):
    monkeypatch.setattr(vocabulary_module, "CHUNK_ROWS", 97)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((600, 24)) * rng.lognormal(size=(600, 1)) + rng.standard_normal(24)
    small = make_vocabulary(table, is_listed=rng.random(600) < 0.9)
    prompt = rng.standard_normal((40, 24)).astype(np.float32) + table[:40].astype(np.float32)
    found = nearest_words(prompt, small, top=7, metric=metric, correction=correction)
    assert_same(found, brute_force(prompt, small, top=7, metric=metric, correction=correction))


@pytest.mark.parametrize(("metric", "correction"), COMBINATIONS)
def test_equals_brute_force_on_the_bundled_model(vocabulary, metric, correction):
    rng = np.random.default_rng(3)
    prompt = vocabulary.table[rng.choice(len(vocabulary.table), 4)]
    prompt = prompt + 0.05 * rng.standard_normal(prompt.shape).astype(np.float32)
    few = Vocabulary(  # a brute force over everything would need hundreds of megabytes
        vocabulary.table[:1500],
        vocabulary.norms[:1500],
        vocabulary.texts[:1500],
        vocabulary.is_listed[:1500],
        vocabulary.is_whole_word[:1500],
        {},
    )
    found = nearest_words(prompt, few, top=20, metric=metric, correction=correction)
    assert_same(found, brute_force(prompt, few, top=20, metric=metric, correction=correction))


@pytest.mark.parametrize(("metric", "correction"), COMBINATIONS)
def test_equal_rows_come_by_lowest_id(make_vocabulary, monkeypatch, metric, correction):
    monkeypatch.setattr(vocabulary_module, "CHUNK_ROWS", 50)
    rng = np.random.default_rng(1)
    table = rng.standard_normal((300, 16))
    twins = [3, 41, 60, 155, 299]
    table[twins] = table[3]
    near = nearest_words(
        table[3:4].astype(np.float32), make_vocabulary(table), top=5, metric=metric, correction=correction
    )
    if metric != "dot":
        assert [n.id for n in near[0]] == twins
    assert [n.id for n in near[0] if n.id in twins] == sorted(n.id for n in near[0] if n.id in twins)


@settings(max_examples=40, deadline=None)
@given(
    table=hnp.arrays(np.float32, (30, 4), elements=st.integers(-2, 2).map(float)),
    vector=hnp.arrays(np.float32, (1, 4), elements=st.integers(-2, 2).map(float)),
    metric=st.sampled_from(["cosine", "dot", "l2"]),
)
def test_ties_of_small_whole_numbers_come_by_lowest_id(table, vector, metric):
    every = np.ones(30, dtype=bool)
    small = Vocabulary(table, row_norms(table), [str(i) for i in range(30)], every, every, {})
    near = nearest_words(vector, small, top=30, metric=metric)[0]
    if metric == "cosine" and not vector.any():
        assert near == []
        return
    a, v = table.astype(np.float64), vector[0].astype(np.float64)
    products = a @ v
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(v)
    scores = {
        "dot": products,
        "l2": -np.linalg.norm(a - v, axis=1),
        "cosine": np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), 0),
    }[metric]
    assert [n.id for n in near] == list(np.argsort(-np.round(scores, 11), kind="stable"))


def test_planted_words_come_back_first(vocabulary, ten_words):
    rng = np.random.default_rng(0)
    rows = vocabulary.table[ten_words]
    noise = rng.standard_normal(rows.shape)
    noise *= 0.1 * np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    prompt = (rows + noise).astype(np.float32)
    for metric, correction in COMBINATIONS:
        if metric == "dot":  # a longer word in nearly the same direction may win: the known weakness of dot
            continue
        for whole_words in (False, True):
            near = nearest_words(
                prompt, vocabulary, metric=metric, correction=correction, whole_words=whole_words
            )
            assert [n[0].id for n in near] == ten_words


def test_planted_rows_have_cosine_one_and_distance_zero(vocabulary, ten_words):
    prompt = vocabulary.table[ten_words]
    assert all(abs(n[0].score - 1) < 1e-12 for n in nearest_words(prompt, vocabulary))
    distances = [n[0].score for n in nearest_words(prompt, vocabulary, metric="l2")]
    assert distances == [0.0] * 10
    assert not np.signbit(distances).any()


def test_only_listed_and_whole_words_come_back(vocabulary):
    prompt = np.random.default_rng(0).standard_normal((3, vocabulary.table.shape[1])).astype(np.float32)
    for near in nearest_words(prompt, vocabulary, top=200):
        assert vocabulary.is_listed[[n.id for n in near]].all()
    for near in nearest_words(prompt, vocabulary, top=200, whole_words=True):
        assert (vocabulary.is_listed & vocabulary.is_whole_word)[[n.id for n in near]].all()


@pytest.mark.parametrize(("metric", "correction"), COMBINATIONS)
def test_a_longer_list_starts_with_the_shorter(vocabulary, metric, correction):
    prompt = np.random.default_rng(0).standard_normal((2, vocabulary.table.shape[1])).astype(np.float32)
    short, long = (
        nearest_words(prompt, vocabulary, top=n, metric=metric, correction=correction) for n in (3, 50)
    )
    assert [[n.id for n in near[:3]] for near in long] == [[n.id for n in near] for near in short]
    assert all([n.score for n in near] == sorted((n.score for n in near), reverse=True) for near in long)


def test_csls_of_a_large_vocabulary_is_exact_too(make_vocabulary, monkeypatch):
    monkeypatch.setattr(module, "CROWD_SAMPLE", 500)
    rng = np.random.default_rng(2)
    table = unit(rng.standard_normal((3_000, 12))) + 0.5
    prompt = table[rng.choice(3_000, 6)].astype(np.float32)
    big = make_vocabulary(table)
    found = nearest_words(prompt, big, top=5, correction="csls")
    assert_same(found, brute_force(prompt, big, top=5, metric="cosine", correction="csls"))


def test_a_vector_of_zeros_has_no_nearest_word(make_vocabulary):
    assert nearest_words(np.zeros((1, 4), np.float32), make_vocabulary(np.eye(4))) == [[]]
    assert len(nearest_words(np.zeros((1, 4), np.float32), make_vocabulary(np.eye(4)), metric="l2")[0]) == 4


def test_huge_and_tiny_vectors_are_read_like_others(vocabulary, ten_words):
    rows = vocabulary.table[ten_words]
    plain = nearest_words(rows, vocabulary, top=5)
    for scale in (1e-20, 1e25):
        scaled = nearest_words((rows * np.float32(scale)).astype(np.float32), vocabulary, top=5)
        assert [[n.id for n in near] for near in scaled] == [[n.id for n in near] for near in plain]
    assert all(nearest_words(rows * np.float32(1e25), vocabulary, metric=metric) for metric in ("dot", "l2"))


def test_best_cosine_is_that_of_the_first_neighbour(vocabulary):
    prompt = np.random.default_rng(0).standard_normal((5, vocabulary.table.shape[1])).astype(np.float32)
    expected = [near[0].score for near in nearest_words(prompt, vocabulary, top=1)]
    np.testing.assert_allclose(best_cosines(prompt, vocabulary), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"metric": "manhattan"}, "cosine, dot, l2"),
        ({"correction": "whitened"}, "all_but_top"),
        ({"correction": "csls", "metric": "l2"}, "cosine"),
        ({"top": 0}, "from 1"),
    ],
)
def test_unknown_settings_are_refused(make_vocabulary, arguments, word):
    with pytest.raises(UserError, match=word):
        nearest_words(np.ones((1, 4), np.float32), make_vocabulary(np.eye(4)), **arguments)
