"""Prompts in the vocabulary's own picture: principal components that every prompt of a model shares.

Axis letters: N vectors, H embedding width, C components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softprompt_core.inspection.vocabulary import (
    Float64Array,
    Vocabulary,
    chunks,
    kept,
    listed_covariance,
    listed_mean,
)


@dataclass(frozen=True)
class Basis:
    """Axes of a picture. mean: [H]; components: [C, H], orthonormal; explained_variance_ratio: [C]."""

    mean: Float64Array
    components: Float64Array
    explained_variance_ratio: Float64Array


@kept
def vocabulary_basis(vocabulary: Vocabulary, *, components: int = 3) -> Basis:
    """The leading principal components of the listed rows, at most H; equal to scikit-learn's PCA.

    Taken from the covariance, which is summed in chunks. Signs are fixed: the largest entry of each component
    is positive, so the same model always gives the same picture.
    """
    from scipy.linalg import eigh

    covariance = listed_covariance(vocabulary)
    width = len(covariance)
    count = min(components, width)
    values, vectors = eigh(covariance, subset_by_index=(width - count, width - 1))
    rows = vectors.T[::-1]
    largest = np.abs(rows).argmax(axis=1)
    rows = rows * np.where(rows[np.arange(count), largest] < 0, -1.0, 1.0)[:, None]
    total = float(np.trace(covariance))
    ratio = np.clip(values[::-1], 0, None) / total if total > 0 else np.zeros(count)
    return Basis(listed_mean(vocabulary), np.ascontiguousarray(rows), ratio)


def project(vectors: NDArray[np.floating], basis: Basis) -> Float64Array:
    """The coordinates of vectors [N, H] on the axes of a basis: [N, C]."""
    parts = [(vectors[part] - basis.mean) @ basis.components.T for part in chunks(vectors)]
    return np.concatenate(parts) if parts else np.zeros((0, len(basis.components)))


def share_in_plane(vectors: NDArray[np.floating], basis: Basis, *, dims: int = 2) -> Float64Array:
    """How much of each vector's squared distance from the mean lies on the first `dims` axes: [N], 0 to 1.

    Near 0, a point's place in the picture says nearly nothing of where the vector is.
    """
    away = np.asarray(vectors, dtype=np.float64) - basis.mean
    whole = np.einsum("nh,nh->n", away, away)
    inside = ((away @ basis.components[:dims].T) ** 2).sum(axis=1)
    # A vector at the mean itself is exactly where the picture shows it.
    return np.where(whole > 0, np.minimum(inside / np.where(whole > 0, whole, 1.0), 1.0), 1.0)
