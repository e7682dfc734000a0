"""How much of what a prompt does survives when it is read as words: the retention ladder and its ratio R.

R = (M(words) − M_random) / (M(prompt) − M_random), with M the accuracy on fixed rows and M_random its mean over
prompts of random words. R = 1: the words do all that the prompt does; R = 0: no more than random words.
After the projection experiments of Lester et al. 2021 §7 and Khashabi et al. 2022 ("Prompt Waywardness").

Axis letters: D draws of random words, N rows, B bootstrap samples, P virtual tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from softprompt_core.evaluation import accuracy_interval
from softprompt_core.inspection.effect import Effect, Outcome

DRAWS = 32
BOOTSTRAP = 2_000
HEADROOM_ERRORS = 3.0
"""Standard errors by which a prompt must beat random words before a share of its gain means anything."""


@dataclass(frozen=True)
class Rung:
    """One way of putting something in the prompt's place; kind: soft, nearest, start, random, hand_written, …"""

    kind: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    loss: float
    text: str | None = None


@dataclass(frozen=True)
class Retention:
    """Shares of the prompt's gain over random words, with 95 % bootstrap intervals over rows and draws.

    value, low, high: R of the nearest words; of_change: R_Δ, the share of what training added that the words
    have; None where it cannot be measured, and `reason` says why.
    """

    value: float | None
    low: float | None
    high: float | None
    of_change: float | None
    headroom: float
    headroom_error: float
    reason: str


def random_words(
    effect: Effect, word_ids: Sequence[int], *, length: int, draws: int = DRAWS, seed: int = 0
) -> Iterator[Outcome]:
    """What prompts of `length` random words do, one outcome a draw."""
    rng = np.random.default_rng(seed)
    pool = np.array(word_ids)
    for _ in range(draws):
        yield effect.of_words(rng.choice(pool, size=length, replace=length > len(pool)).tolist())


def rung(kind: str, outcome: Outcome | Sequence[Outcome], *, text: str | None = None) -> Rung:
    """The figures of one outcome with a Wilson interval, or of several draws: mean and their 2.5 % and 97.5 %."""
    if isinstance(outcome, Outcome):
        low, high = accuracy_interval(outcome.accuracy, len(outcome.right))
        return Rung(kind, outcome.accuracy, low, high, outcome.loss, text)
    accuracies = [found.accuracy for found in outcome]
    low, high = np.quantile(accuracies, [0.025, 0.975])
    losses = float(np.mean([found.loss for found in outcome]))
    return Rung(kind, float(np.mean(accuracies)), float(low), float(high), losses, text)


def retention(
    soft: Outcome,
    words: Outcome,
    random: Sequence[Outcome],
    *,
    start: Outcome | None = None,
    start_words: Outcome | None = None,
    seed: int = 0,
) -> Retention:
    """R of the words, and R_Δ where the start is known. All outcomes are of the same rows.

    R_Δ = (M(words of P) − M(words of P⁰)) / (M(P) − M(P⁰)).
    """
    rng = np.random.default_rng(seed)
    drawn = np.stack([found.is_correct for found in random]).astype(float)
    m_soft, m_words = soft.is_correct.astype(float), words.is_correct.astype(float)
    rows = rng.integers(0, len(m_soft), size=(BOOTSTRAP, len(m_soft)))
    picks = rng.integers(0, len(drawn), size=(BOOTSTRAP, len(drawn)))
    soft_means, words_means = m_soft[rows].mean(1), m_words[rows].mean(1)
    random_means = np.array([drawn[pick].mean(0)[row].mean() for pick, row in zip(picks, rows, strict=True)])
    headroom = float(m_soft.mean() - drawn.mean())
    error = float((soft_means - random_means).std(ddof=1))
    of_change = _of_change(soft, words, start, start_words)
    if headroom < HEADROOM_ERRORS * error or headroom <= 0:
        reason = (
            f"The prompt beats random words by {headroom:.1%} ± {error:.1%} only, so there is no gain of which the "
            "words could keep a share."
        )
        return Retention(None, None, None, of_change, headroom, error, reason)
    gains = soft_means - random_means
    shares = (words_means - random_means)[gains > 0] / gains[gains > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    value = float((m_words.mean() - drawn.mean()) / headroom)
    return Retention(value, float(low), float(high), of_change, headroom, error, "")


def _of_change(
    soft: Outcome, words: Outcome, start: Outcome | None, start_words: Outcome | None
) -> float | None:
    """R_Δ; None where the start is not known or training changed nothing beyond three standard errors."""
    if start is None or start_words is None:
        return None
    change = soft.is_correct.astype(float) - start.is_correct.astype(float)
    error = float(change.std(ddof=1) / np.sqrt(len(change)))
    if change.mean() < HEADROOM_ERRORS * error or change.mean() <= 0:
        return None
    return float((words.accuracy - start_words.accuracy) / change.mean())
