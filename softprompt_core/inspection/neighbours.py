"""The vocabulary entries nearest to a vector: exact, over the whole vocabulary, with the known corrections.

Axis letters: N vectors, V vocabulary, H embedding width.

A first pass in float32 scores every row; the rows that could be among the nearest, rounding allowed for, are
scored again in float64. The answer is that of a float64 search over everything, ties by the lowest id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from softprompt_core.errors import UserError
from softprompt_core.inspection.projection import vocabulary_basis
from softprompt_core.inspection.vocabulary import (
    Float64Array,
    Vocabulary,
    checked_vectors,
    chunks,
    kept,
    listed_mean,
)
from softprompt_core.records import FloatArray, Neighbour

Metric = Literal["cosine", "dot", "l2"]
Correction = Literal["none", "centred", "csls", "all_but_top"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

BLOCK_BYTES = 64 << 20
"""First-pass scores kept at once; so many vectors are scored together as fit."""
ROUNDING = 2e-5
"""What float32 may lose of a dot product, as a share of the two lengths; five times what is seen at H =
4,096."""
CROWD = 10
"""Nearest words that CSLS calls a word's surroundings."""
CROWD_SAMPLE = 16_384
"""Vocabularies up to this size have every word's surroundings measured; larger ones only where it matters."""

Transform = Callable[[NDArray[np.floating]], NDArray[np.floating]]
Ids = NDArray[np.intp]


def nearest_words(
    prompt: FloatArray,
    vocabulary: Vocabulary,
    *,
    top: int = 10,
    metric: Metric = "cosine",
    correction: Correction = "none",
    whole_words: bool = False,
) -> list[list[Neighbour]]:
    """The `top` listed words nearest to each vector, nearest first; a larger score is always nearer.

    prompt: [N, H]. Scores: cosine; dot product; l2 the negative Euclidean distance. Corrections: centred
    takes the mean of the listed rows from both sides; all_but_top also their H/100 leading principal
    components (Mu & Viswanath 2018); csls, with cosine only, is 2 cos - the word's mean cosine to its 10
    nearest words (after Conneau et al. 2018; the term that is the same for every word is left out). A vector
    without a direction (all zeros, or the mean when centred) has no neighbours under cosine. Fewer than `top`
    come back when fewer words are listed.

    Raises UserError for an unknown metric or correction, and for vectors that do not fit the vocabulary.
    """
    _check(top, metric, correction)
    vectors = checked_vectors(prompt, vocabulary)
    allowed = vocabulary.is_listed & vocabulary.is_whole_word if whole_words else vocabulary.is_listed
    transform = _transform(vocabulary, correction)
    vectors = np.asarray(transform(vectors), dtype=np.float64)
    found: list[list[Neighbour]] = []
    norms = _row_norms(vocabulary, correction)
    step = max(1, BLOCK_BYTES // (4 * len(vocabulary.table)))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        rough = _rough_scores(block, vocabulary, metric, transform, norms)
        rough[:, ~allowed] = -np.inf
        for vector, scores in zip(block, rough, strict=True):
            if not allowed.any() or (metric == "cosine" and not vector.any()):
                found.append([])
            elif correction == "csls":
                found.append(_nearest_by_csls(vector, scores, vocabulary, top))
            else:
                found.append(_nearest(vector, scores, vocabulary, top, metric, transform))
    return found


def best_cosines(vectors: NDArray[np.floating], vocabulary: Vocabulary) -> Float64Array:
    """The largest cosine of each vector [N, H] to a listed word: [N]; NaN for a vector of zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, np.nan)).astype(np.float32)
    best = np.full(len(units), -np.inf)
    for part in chunks(vocabulary.table):
        listed = vocabulary.is_listed[part]
        if listed.any():
            norms = np.maximum(vocabulary.norms[part][listed, None], np.finfo(np.float32).tiny)
            rows = vocabulary.table[part][listed] / norms
            best = np.maximum(best, (units @ rows.T).max(axis=1))
    return best


def _check(top: int, metric: str, correction: str) -> None:
    if metric not in METRICS:
        raise UserError(f"metric: {metric!r} was given; allowed are {', '.join(METRICS)}.")
    if correction not in CORRECTIONS:
        raise UserError(f"correction: {correction!r} was given; allowed are {', '.join(CORRECTIONS)}.")
    if correction == "csls" and metric != "cosine":
        raise UserError(
            f"The csls correction is made for cosine; {metric} was given. Choose cosine or another one."
        )
    if top < 1:
        raise UserError(f"top: {top} was given; allowed is a whole number from 1. 10 is a sound start.")


def _transform(vocabulary: Vocabulary, correction: Correction) -> Transform:
    """What a correction does to vectors and rows alike, in the precision they come in."""
    if correction == "centred":
        mean = listed_mean(vocabulary)
        return lambda rows: rows - mean.astype(rows.dtype)
    if correction == "all_but_top":
        basis = vocabulary_basis(vocabulary, components=max(1, round(vocabulary.table.shape[1] / 100)))

        def remove(rows: NDArray[np.floating]) -> NDArray[np.floating]:
            away = rows - basis.mean.astype(rows.dtype)
            axes = basis.components.astype(rows.dtype)
            return away - (away @ axes.T) @ axes

        return remove
    return lambda rows: rows


@kept
def _row_norms(vocabulary: Vocabulary, correction: Correction) -> Float64Array:
    """The lengths of the table's rows after a correction: [V]."""
    if correction in ("none", "csls"):
        return vocabulary.norms.astype(np.float64)
    transform = _transform(vocabulary, correction)
    parts = [np.linalg.norm(transform(vocabulary.table[part]), axis=1) for part in chunks(vocabulary.table)]
    return np.concatenate(parts).astype(np.float64)


def _rough_scores(
    vectors: Float64Array, vocabulary: Vocabulary, metric: Metric, transform: Transform, norms: Float64Array
) -> NDArray[np.float32]:
    """First-pass scores of transformed vectors [N, H], right to ROUNDING in units of the score: [N, V].

    cosine: the cosine. dot: the product with the unit vector over the longest row. l2: minus the part of the
    squared distance that depends on the row, over |v|² + the longest row's.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    scores = np.empty((len(vectors), len(vocabulary.table)), dtype=np.float32)
    for part in chunks(vocabulary.table):
        scores[:, part] = units @ transform(vocabulary.table[part]).T
    longest = norms.max() or 1.0
    if metric == "cosine":
        scores /= np.where(norms > 0, norms, np.inf).astype(np.float32)
    elif metric == "dot":
        scores /= np.float32(longest)
    else:
        scale = lengths**2 + longest**2
        for row in range(len(scores)):
            scores[row] = (2 * lengths[row] * scores[row] - norms**2) / scale[row]
    return scores


def _exact_scores(
    vector: Float64Array, ids: Ids, vocabulary: Vocabulary, metric: Metric, transform: Transform
) -> Float64Array:
    """Float64 scores of one transformed vector [H] against some rows; equal rows get equal scores."""
    found = []
    for part in chunks(vocabulary.table, len(ids)):
        rows = transform(vocabulary.table[ids[part]].astype(np.float64))
        if metric == "l2":
            found.append(0.0 - np.sqrt(((rows - vector) ** 2).sum(axis=1)))
            continue
        products = (rows * vector).sum(axis=1)
        if metric == "cosine":
            lengths = np.sqrt((rows**2).sum(axis=1)) * np.sqrt((vector**2).sum())
            products = products / np.where(lengths > 0, lengths, np.inf)
        found.append(products)
    return np.concatenate(found)


def _nearest(
    vector: Float64Array,
    rough: NDArray[np.float32],
    vocabulary: Vocabulary,
    top: int,
    metric: Metric,
    transform: Transform,
) -> list[Neighbour]:
    count = min(top, int(np.isfinite(rough).sum()))
    threshold = np.partition(rough, -count)[-count] - 2 * ROUNDING
    ids = np.flatnonzero(rough >= threshold)
    exact = _exact_scores(vector, ids, vocabulary, metric, transform)
    length = float(np.linalg.norm(vector))
    size = {"cosine": 1.0, "dot": float(np.abs(exact).max()), "l2": length + float(np.abs(exact).max())}[
        metric
    ]
    return _listing(ids, exact, vocabulary, count, scale=size or 1.0)


def _listing(
    ids: Ids, scores: Float64Array, vocabulary: Vocabulary, count: int, *, scale: float = 1.0
) -> list[Neighbour]:
    """The best `count`; scores that differ by less than 1e-13 of `scale`, which is rounding, count as a
    tie."""
    order = np.lexsort((ids, -np.round(scores / scale, 13)))[:count]
    return [Neighbour(int(ids[i]), vocabulary.texts[ids[i]], float(scores[i])) for i in order]


# ------------------------------------------------------------------------ CSLS


def _nearest_by_csls(
    vector: Float64Array, cosines: NDArray[np.float32], vocabulary: Vocabulary, top: int
) -> list[Neighbour]:
    """Exact CSLS without measuring every word's surroundings (V² work).

    A word's closeness to a sample of the vocabulary is never above its closeness to all of it, so 2 cos minus
    that is an upper bound of its score: words are measured from the best bound down until no bound reaches
    the `top` scores found.
    """
    bounds = 2.0 * cosines - _crowding_bound(vocabulary)
    order = np.argsort(-bounds, kind="stable")[: int(np.isfinite(bounds).sum())]
    count = min(top, len(order))
    known = _known_crowding(vocabulary)
    done, batch = 0, 4 * count
    scores = np.zeros(0)
    while done < len(order):
        ids = order[done : done + batch]
        missing = ids[np.isnan(known[ids])]
        if len(missing):
            known[missing] = _crowding(vocabulary, missing)
        exact = _exact_scores(vector, ids, vocabulary, "cosine", lambda rows: rows)
        scores = np.concatenate([scores, 2.0 * exact - known[ids]])
        done, batch = done + len(ids), 2 * batch
        reached = np.partition(scores, -count)[-count]
        if done < len(order) and bounds[order[done]] + 4 * ROUNDING < reached:
            break
    return _listing(order[:done], scores, vocabulary, count)


@kept
def _crowding_bound(vocabulary: Vocabulary) -> Float64Array:
    """At most the mean cosine of each word to its 10 nearest: exact for small vocabularies; [V], -1 if
    unlisted."""
    listed = np.flatnonzero(vocabulary.is_listed)
    bound = np.full(len(vocabulary.table), -1.0)
    if len(listed) <= CROWD_SAMPLE:
        bound[listed] = _crowding(vocabulary, listed)
    else:
        sample = listed[np.linspace(0, len(listed) - 1, 1_024).astype(int)]
        bound[listed] = _crowding(vocabulary, listed, among=sample)
    return bound


@kept
def _known_crowding(vocabulary: Vocabulary) -> Float64Array:
    """The mean cosine of each word to its 10 nearest as far as measured, NaN elsewhere; filled in as needed:
    [V]."""
    if vocabulary.is_listed.sum() <= CROWD_SAMPLE:
        return _crowding_bound(vocabulary).copy()
    return np.full(len(vocabulary.table), np.nan)


def _crowding(vocabulary: Vocabulary, ids: Ids, *, among: Ids | None = None) -> Float64Array:
    """The mean cosine of each id to its 10 nearest other words among the listed ones (or a sample):
    [len(ids)]."""
    listed = np.flatnonzero(vocabulary.is_listed) if among is None else among
    nearest = np.full((len(ids), CROWD), -np.inf)
    for part in chunks(vocabulary.table, len(listed)):
        columns = _units(vocabulary, listed[part])
        for start in range(0, len(ids), 256):
            block = ids[start : start + 256]
            cosines = _units(vocabulary, block) @ columns.T
            cosines[block[:, None] == listed[part][None, :]] = -np.inf
            both = np.concatenate([nearest[start : start + 256], cosines], axis=1)
            nearest[start : start + 256] = np.partition(both, -CROWD, axis=1)[:, -CROWD:]
    # Rounded, so that equal rows are equally crowded whatever their place in the product.
    counted = np.isfinite(nearest)
    sums = np.where(counted, nearest, 0.0).sum(axis=1)
    return np.round(sums / np.maximum(counted.sum(axis=1), 1), 12)


def _units(vocabulary: Vocabulary, ids: Ids) -> Float64Array:
    rows = vocabulary.table[ids].astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return rows
