"""What nearest words mean by chance: how near a random vector of the vocabulary's own shape comes to a word.

Axis letters: N vectors, H embedding width, D draws.
"""

from __future__ import annotations

import numpy as np

from softprompt_core.errors import UserError
from softprompt_core.inspection.neighbours import best_cosines
from softprompt_core.inspection.vocabulary import (
    Float64Array,
    Vocabulary,
    checked_vectors,
    kept,
    listed_chunks,
    listed_mean,
)
from softprompt_core.records import FloatArray

FEWEST_DRAWS = 50


def null_scores(
    prompt: FloatArray, vocabulary: Vocabulary, *, draws: int = 200, seed: int = 0
) -> Float64Array:
    """How far each vector's best cosine lies above chance, in standard deviations of the null: [N].

    z = (best cosine - c0) / s0 with the null's mean c0 and deviation s0; NaN for a vector of zeros. Always of
    the plain cosine over all listed words, whatever the listing shows. Below z = 3 a nearest word says
    nothing.

    prompt: [N, H]. Raises UserError for vectors that do not fit the vocabulary.
    """
    vectors = checked_vectors(prompt, vocabulary)
    mean, deviation = null_distribution(vocabulary, draws=draws, seed=seed)
    return (best_cosines(vectors, vocabulary) - mean) / deviation


@kept
def null_distribution(vocabulary: Vocabulary, *, draws: int, seed: int) -> tuple[float, float]:
    """(c0, s0): mean and standard deviation of the best cosine of random vectors; kept for each
    vocabulary."""
    if draws < FEWEST_DRAWS:
        raise UserError(
            f"draws: {draws} was given; allowed is a whole number from {FEWEST_DRAWS}. 200 is enough."
        )
    best = best_cosines(null_vectors(vocabulary, draws=draws, seed=seed), vocabulary)
    return float(best.mean()), max(float(best.std(ddof=1)), float(np.finfo(np.float32).eps))


def null_vectors(vocabulary: Vocabulary, *, draws: int, seed: int) -> FloatArray:
    """Random vectors with the listed rows' covariance and, each, the norm of a random listed row: [D, H].

    Each is a Gaussian mixture of all centred rows, Σ g_v (E_v - μ) / √V, which has exactly their covariance.
    The mean itself is not added: it lies near every word of an anisotropic table, and with it random vectors
    come so near to words that not even a word's own row could stand out.
    """
    rng = np.random.default_rng(seed)
    mean = listed_mean(vocabulary)
    vectors = np.zeros((draws, vocabulary.table.shape[1]))
    for rows in listed_chunks(vocabulary):
        rows -= mean
        mixture = rng.standard_normal((draws, len(rows)), dtype=np.float32)
        vectors += mixture @ rows.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms = rng.choice(vocabulary.norms[vocabulary.is_listed], size=(draws, 1))
    return (vectors / np.where(lengths > 0, lengths, 1.0) * norms).astype(np.float32)
