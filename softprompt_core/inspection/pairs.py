"""Two prompts beside each other: how alike they are beyond a shared start, and what lies between them.

Axis letters: P, Q virtual tokens of the two, H embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import hypergeom

from softprompt_core.errors import UserError
from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.neighbours import nearest_words
from softprompt_core.inspection.vocabulary import Vocabulary, checked_vectors
from softprompt_core.records import FloatArray

START_DOMINATED = 0.5
"""Raw likeness above this, of which less than half remains once the starts are taken off, comes from the start."""
LINE_POINTS = 11


@dataclass(frozen=True)
class Match:
    """A virtual token of the first prompt, its counterpart in the second, and their cosine."""

    first: int
    second: int
    cosine: float


@dataclass(frozen=True)
class Likeness:
    """raw: mean cosine of tokens in the same place; of_change: the same of P − P⁰, None where a start is not known;
    matches: the pairing with the highest total cosine (Hungarian method); shared: words among both prompts' nearest;
    shared_by_chance: how many two such word lists share at random; chance: the probability of at least so many."""

    raw: float | None
    of_change: float | None
    is_start_dominated: bool
    matches: list[Match]
    shared: list[str]
    shared_by_chance: float
    chance: float


@dataclass(frozen=True)
class LinePoint:
    """A prompt on the straight line between two: share 0 is the first, 1 the second."""

    share: float
    loss: float
    accuracy: float


def likeness(
    first: FloatArray,
    second: FloatArray,
    vocabulary: Vocabulary,
    *,
    first_start: FloatArray | None = None,
    second_start: FloatArray | None = None,
    top: int = 5,
) -> Likeness:
    """How alike two prompts [P, H] and [Q, H] are. Raises UserError when they belong to another width."""
    a, b = checked_vectors(first, vocabulary), checked_vectors(second, vocabulary)
    same = a.shape == b.shape
    raw = _mean_cosine(a, b) if same else None
    of_change = None
    if same and first_start is not None and second_start is not None:
        of_change = _mean_cosine(a - first_start, b - second_start)
    cosines = _units(a) @ _units(b).T
    pairs = zip(*linear_sum_assignment(-cosines), strict=True)
    words = [
        {word.id for words in nearest_words(vectors.astype(np.float32), vocabulary, top=top) for word in words}
        for vectors in (a, b)
    ]
    shared = sorted(words[0] & words[1])
    listed = int(vocabulary.is_listed.sum())
    by_chance = hypergeom(listed, len(words[0]), len(words[1]))
    return Likeness(
        raw=raw, of_change=of_change,
        is_start_dominated=bool(
            raw is not None and of_change is not None and raw > START_DOMINATED and of_change < raw / 2
        ),
        matches=[Match(int(i), int(j), float(cosines[i, j])) for i, j in pairs],
        shared=[vocabulary.texts[i] for i in shared], shared_by_chance=float(by_chance.mean()),
        chance=float(by_chance.sf(len(shared) - 1)),
    )


def line(effect: Effect, first: FloatArray, second: FloatArray, *, points: int = LINE_POINTS) -> list[LinePoint]:
    """Loss and accuracy along the straight line between two prompts of the same shape [P, H].

    Raises UserError when their lengths differ.
    """
    if first.shape != second.shape:
        raise UserError(
            f"The prompts have {len(first)} and {len(second)} virtual tokens; a line runs only between prompts of "
            "the same length. Choose two of the same length."
        )
    found = []
    for share in np.linspace(0.0, 1.0, points):
        outcome = effect.of(((1 - share) * first + share * second).astype(np.float32))
        found.append(LinePoint(float(share), outcome.loss, outcome.accuracy))
    return found


def _units(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, np.inf)


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((_units(a) * _units(b)).sum(1).mean())
