"""The cheap readings of a soft prompt, put together: where its vectors lie, and what that cannot tell.

Axis letters: P virtual tokens, H embedding width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softprompt_core.errors import UserError
from softprompt_core.inspection.neighbours import Correction, Metric, nearest_words
from softprompt_core.inspection.null import null_scores
from softprompt_core.inspection.projection import project, share_in_plane, vocabulary_basis
from softprompt_core.inspection.vocabulary import Float64Array, Vocabulary, checked_vectors
from softprompt_core.records import FloatArray, Neighbour, TokenReading

ABOVE_NULL = 3.0
"""z from which a nearest word is more than chance."""


def read_tokens(
    prompt: FloatArray,
    vocabulary: Vocabulary,
    *,
    start: FloatArray | None = None,
    top: int = 10,
    metric: Metric = "cosine",
    correction: Correction = "none",
    whole_words: bool = False,
) -> list[TokenReading]:
    """Nearest words, chance, echo and norm of every virtual token of a prompt [P, H].

    start: [P, H], the prompt before training; with it come `start_token` (its nearest word, found the same
    way), `echo` (the nearest word is still that one) and `displacement` (how far the token moved, Euclidean).
    `norm_percentile`: percent of listed words that are no longer than the token.

    Raises UserError when prompt or start do not fit the vocabulary.
    """
    vectors = checked_vectors(prompt, vocabulary)
    words = nearest_words(
        prompt, vocabulary, top=top, metric=metric, correction=correction, whole_words=whole_words
    )
    before: list[Neighbour | None] = [None] * len(vectors)
    moved: list[float | None] = [None] * len(vectors)
    if start is not None:
        origin = _checked_start(start, vectors, vocabulary)
        found = nearest_words(
            start, vocabulary, top=1, metric=metric, correction=correction, whole_words=whole_words
        )
        before = [near[0] if near else None for near in found]
        moved = [float(d) for d in np.linalg.norm(vectors - origin, axis=1)]
    chance = null_scores(prompt, vocabulary)
    norms = np.linalg.norm(vectors, axis=1)
    shell = np.sort(vocabulary.norms[vocabulary.is_listed].astype(np.float64))
    percentiles = 100.0 * np.searchsorted(shell, norms.astype(np.float32), side="right") / len(shell)
    return [
        TokenReading(
            index=i,
            norm=float(norms[i]),
            norm_percentile=float(percentiles[i]),
            z=float(chance[i]) if np.isfinite(chance[i]) else None,
            echo=_echo(words[i], before[i]),
            neighbours=words[i],
            start_token=_token(before[i]),
            displacement=moved[i],
        )
        for i in range(len(vectors))
    ]


def words_line(prompt: FloatArray, vocabulary: Vocabulary, *, start: FloatArray | None = None) -> str:
    """The nearest word of every virtual token with its cosine, on one line, for a prompt still in training.

    A token whose word has changed since `start` is written "before→now".
    """
    vectors = checked_vectors(prompt, vocabulary)
    now = nearest_words(prompt, vocabulary, top=1)
    before: list[list[Neighbour]] = [[] for _ in now]
    if start is not None:
        _checked_start(start, vectors, vocabulary)
        before = nearest_words(start, vocabulary, top=1)
    pieces = []
    for new, old in zip(now, before, strict=True):
        word = f"{new[0].token} {new[0].score:.2f}" if new else "(no direction)"
        has_changed = bool(old) and bool(new) and old[0].id != new[0].id
        pieces.append(f"{old[0].token}→{word}" if has_changed else word)
    return " · ".join(pieces)


def inspection_document(
    prompt: FloatArray,
    vocabulary: Vocabulary,
    *,
    start: FloatArray | None = None,
    top: int = 10,
    metric: Metric = "cosine",
    correction: Correction = "none",
    whole_words: bool = False,
) -> dict[str, Any]:
    """The `inspect` document: tokens, projection and trust as plain JSON values.

    What needs the model itself (how much of the effect survives when the prompt is read as words) is not
    computed here: those fields are null and the sentence says so.
    """
    readings = read_tokens(
        prompt,
        vocabulary,
        start=start,
        top=top,
        metric=metric,
        correction=correction,
        whole_words=whole_words,
    )
    return {
        "tokens": [_token_document(reading) for reading in readings],
        "projection": _projection_document(prompt, vocabulary),
        "trust": _trust_document(readings),
    }


def _token_document(reading: TokenReading) -> dict[str, Any]:
    return {
        "index": reading.index,
        "norm": reading.norm,
        "norm_percentile": reading.norm_percentile,
        "z": reading.z,
        "echo": reading.echo,
        "neighbours": [{"id": n.id, "token": n.token, "score": n.score} for n in reading.neighbours],
    }


def _projection_document(prompt: FloatArray, vocabulary: Vocabulary) -> dict[str, Any]:
    basis = vocabulary_basis(vocabulary, components=3)
    places = project(prompt, basis)
    shares = share_in_plane(prompt, basis, dims=2)
    points = []
    for index, (place, share) in enumerate(zip(places, shares, strict=True)):
        # A model under three numbers wide has no third axis.
        x, y, z = (float(value) for value in np.pad(place, (0, 3 - len(place))))
        points.append({"index": index, "x": x, "y": y, "z": z, "share_in_plane": float(share)})
    return {
        "explained_variance": [float(ratio) for ratio in basis.explained_variance_ratio],
        "points": points,
    }


def _trust_document(readings: list[TokenReading]) -> dict[str, Any]:
    """Trust as far as no forward pass is needed: the shares of tokens above chance and of mere echoes."""
    measured = [reading.z for reading in readings if reading.z is not None]
    echoes = [reading.echo for reading in readings if reading.echo is not None]
    above = sum(z > ABOVE_NULL for z in measured)
    sentence = (
        f"{above} of {len(readings)} nearest words stand above chance (z > {ABOVE_NULL:g}). "
        "Not measured: whether the words do what the prompt does (retention), and whether another seed finds "
        "the same words (stability); so there is no trust score, and nearest words alone can mislead."
    )
    if echoes:
        sentence += f" {sum(echoes)} of {len(echoes)} only repeat the start's words."
    else:
        sentence += " Without the start of training, echo is not known."
    return {
        "score": None,
        "band": None,
        "limiting": None,
        "retention": None,
        "retention_low": None,
        "above_null": above / len(readings) if readings else None,
        "stability": None,
        "echo": sum(echoes) / len(echoes) if echoes else None,
        "retention_of_change": None,
        "sentence": sentence,
    }


def _checked_start(start: FloatArray, vectors: Float64Array, vocabulary: Vocabulary) -> Float64Array:
    origin = checked_vectors(start, vocabulary)
    if origin.shape != vectors.shape:
        raise UserError(
            f"The start has {len(origin)} virtual tokens and the prompt {len(vectors)}; they must be the "
            "same run's. Give the first snapshot of this run, or no start."
        )
    return origin


def _echo(words: list[Neighbour], before: Neighbour | None) -> bool | None:
    return words[0].id == before.id if words and before is not None else None


def _token(word: Neighbour | None) -> str | None:
    return None if word is None else word.token
