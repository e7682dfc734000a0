"""How far the nearest-words reading of one prompt can be trusted: a number, its limiting term, and a sentence.

T = 100 · min(R_low, A, S) over the terms that exist: R_low, the lower 95 % bound of retention, clipped to 0 … 1; A, the
share of tokens whose nearest word stands above chance; S, the agreement of words between seeds beyond chance. Without a
second seed S is unknown and T is at most 69, so that no single run is called readable. `docs/trust.md` tells
how the bands were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from softprompt_core.inspection.neighbours import nearest_words
from softprompt_core.inspection.null import null_vectors
from softprompt_core.inspection.retention import Retention
from softprompt_core.inspection.vocabulary import Vocabulary, kept
from softprompt_core.records import FloatArray

Band = Literal["readable", "partial", "do_not_read", "not_measurable"]
READABLE, PARTIAL = 70.0, 30.0
WITHOUT_STABILITY = 69.0
MOSTLY_ECHO = 0.5


@dataclass(frozen=True)
class Trust:
    """score 0 … 100; None where it cannot be measured. `limiting` names the term that decided it."""

    score: float | None
    band: Band
    limiting: str | None
    retention: float | None
    retention_low: float | None
    above_null: float
    stability: float | None
    echo: float | None
    retention_of_change: float | None
    sentence: str


def trust(
    found: Retention, *, above_null: float, stability: float | None, echo: float | None
) -> Trust:
    """The trust score of one prompt's nearest words; shares are 0 … 1, None where not known."""
    known = (found.value, found.low, above_null, stability, echo, found.of_change)
    if found.low is None:
        return Trust(None, "not_measurable", "retention", *known, _not_measurable(found))
    terms = {"retention": min(max(found.low, 0.0), 1.0), "above_null": above_null}
    if stability is not None:
        terms["stability"] = min(max(stability, 0.0), 1.0)
    limiting = min(terms, key=lambda name: terms[name])
    score = 100 * terms[limiting]
    if stability is None and score > WITHOUT_STABILITY:
        score, limiting = WITHOUT_STABILITY, "stability"
    band: Band = "readable" if score >= READABLE else "partial" if score >= PARTIAL else "do_not_read"
    sentence = _sentence(band, limiting, found, above_null=above_null, stability=stability, echo=echo)
    return Trust(score, band, limiting, *known, sentence)


def _not_measurable(found: Retention) -> str:
    return f"Not measurable: {found.reason[0].lower()}{found.reason[1:]}"


def _sentence(
    band: Band, limiting: str, found: Retention, *, above_null: float, stability: float | None, echo: float | None
) -> str:
    opening = {
        "readable": "The nearest words can be read",
        "partial": "The nearest words tell part of the story",
        "do_not_read": "Do not read the nearest words as the prompt's meaning",
    }[band]
    value = 0.0 if found.value is None else min(max(found.value, 0.0), 1.0)
    sentence = f"{opening}: put in the prompt's place they keep {value:.0%} of its gain over random words"
    if found.of_change is not None:
        sentence += f" and {min(max(found.of_change, 0.0), 1.0):.0%} of what training added"
    because = {
        "retention": "what they keep is the weakest point",
        "above_null": f"only {above_null:.0%} of them stand above chance",
        "stability": "another seed finds other words" if stability is not None
        else "no second seed has been compared, so it is not called readable",
    }[limiting]
    sentence += f"; {because}."
    if (echo or 0.0) >= MOSTLY_ECHO:
        sentence += f" {echo:.0%} of the words only repeat the start's."
    return sentence


def stability(prompts: Sequence[FloatArray], vocabulary: Vocabulary, *, top: int = 5) -> float | None:
    """S = (word overlap − chance) / (1 − chance) over pairs of prompts of other seeds; None with fewer than two.

    Overlap: the share of one prompt's nearest words (the `top` of each token, as one set) that the other has too, the
    smaller set counted; chance: the same for pairs of random prompts of the vocabulary's own shape.
    """
    if len(prompts) < 2:
        return None
    sets = [_words(prompt, vocabulary, top) for prompt in prompts]
    overlap = float(np.mean([_overlap(a, b) for i, a in enumerate(sets) for b in sets[i + 1:]]))
    chance = _chance_overlap(vocabulary, length=min(map(len, prompts)), top=top)
    return (overlap - chance) / max(1 - chance, 1e-9)


@kept
def _chance_overlap(vocabulary: Vocabulary, *, length: int, top: int) -> float:
    draws = null_vectors(vocabulary, draws=16 * length, seed=1)
    sets = [_words(draws[i * length:(i + 1) * length], vocabulary, top) for i in range(16)]
    return float(np.mean([_overlap(a, b) for i, a in enumerate(sets) for b in sets[i + 1:]]))


def _words(prompt: FloatArray, vocabulary: Vocabulary, top: int) -> set[int]:
    return {word.id for words in nearest_words(prompt, vocabulary, top=top) for word in words}


def _overlap(a: set[int], b: set[int]) -> float:
    return len(a & b) / max(1, min(len(a), len(b)))
