"""The readings that need the model: what a prompt does, what it says of itself, and how far its words can be trusted.

Each is a generator that tells how far it is and gives back a plain document, so that a job can run it in the
background, cancel it between two passes, and keep the result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from softprompt_core.initialisers import ordinary_word_ids
from softprompt_core.inspection import steering
from softprompt_core.inspection.ablation import ablate, cumulative, order_sensitivity
from softprompt_core.inspection.attention import attention_mass
from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.elicitation import elicit
from softprompt_core.inspection.gradients import integrated_gradients
from softprompt_core.inspection.neighbours import nearest_words
from softprompt_core.inspection.null import null_scores
from softprompt_core.inspection.retention import DRAWS, random_words, retention, rung
from softprompt_core.inspection.signature import continued_text, expected_words, signature_words
from softprompt_core.inspection.trust import stability, trust
from softprompt_core.inspection.vocabulary import Vocabulary
from softprompt_core.records import FloatArray, Neighbour

ABOVE_NULL = 3.0
ABLATION_ROWS = 80
Working = Generator[float, None, dict[str, Any]]
"""Yields the share that is done, 0 … 1; returns the reading's document."""


@dataclass(frozen=True)
class Subject:
    """A prompt under study and what belongs to it: prompt, start: [P, H]; siblings: prompts of the same task and start
    from other seeds; other: another run's prompt on the same model; written: the hand-written prompt."""

    effect: Effect
    vocabulary: Vocabulary
    prompt: FloatArray
    start: FloatArray | None = None
    siblings: Sequence[FloatArray] = field(default_factory=tuple)
    other: FloatArray | None = None
    written: str = ""

    def words(self, prompt: FloatArray) -> list[int]:
        """The id of the nearest listed word of each token; the end token's for a vector without a direction."""
        found = nearest_words(prompt, self.vocabulary, top=1)
        return [words[0].id if words else 0 for words in found]


def ladder(subject: Subject) -> Working:
    """Retention ladder and trust: the prompt, PEZ's words, nearest words, start words, random words, hand-written."""
    effect, prompt, vocabulary = subject.effect, subject.prompt, subject.vocabulary
    pool = ordinary_word_ids(effect.base.tokenizer)
    soft = effect.of(prompt)
    random = []
    for outcome in random_words(effect, pool, length=len(prompt)):
        random.append(outcome)
        yield 0.5 * len(random) / DRAWS
    ids = subject.words(prompt)
    words = effect.of_words(ids)
    start = start_words = None
    if subject.start is not None:
        start_ids = subject.words(subject.start)
        start, start_words = effect.of(subject.start), effect.of_words(start_ids)
    pez_ids = yield from _working(steering.projected_words(effect, prompt, vocabulary), start=0.5, end=0.95)
    rungs = [
        rung("soft", soft),
        rung("pez", effect.of_words(pez_ids), text=_text(effect, pez_ids)),
        rung("nearest", words, text=_text(effect, ids)),
    ]
    if start is not None and start_words is not None:
        rungs += [rung("start", start), rung("start_words", start_words, text=_text(effect, start_ids))]
    rungs += [rung("random", random)]
    if subject.written:
        rungs.append(rung("hand_written", effect.of_text(subject.written), text=subject.written))
    rungs.append(rung("no_prompt", effect.of_nothing()))
    kept = retention(soft, words, random, start=start, start_words=start_words)
    z = null_scores(prompt, vocabulary)
    found = trust(
        kept, above_null=float(np.nanmean(z > ABOVE_NULL)),
        stability=stability([prompt, *subject.siblings], vocabulary) if subject.siblings else None,
        echo=None if subject.start is None else float(np.mean(np.array(ids) == np.array(start_ids))),
    )
    return {
        "rungs": [asdict(r) for r in rungs], "retention": asdict(kept), "trust": asdict(found),
        "rows": len(effect.examples), "draws": DRAWS, "seeds": 1 + len(subject.siblings),
    }


def tokens(subject: Subject) -> Working:
    """What each virtual token does: three ablations, the cumulative curve, and how much order matters."""
    effect = subject.effect.part(range(min(ABLATION_ROWS, len(subject.effect.examples))))
    found = []
    total = len(subject.prompt)
    for index in range(total):
        found += ablate(effect, subject.prompt, only=[index])
        yield 0.7 * (index + 1) / total
    curve = cumulative(effect, subject.prompt, found)
    yield 0.85
    order = order_sensitivity(effect, subject.prompt)
    return {
        "ablations": [asdict(a) for a in found], "cumulative": [asdict(c) for c in curve],
        "order": {**asdict(order), "loss_of_accuracy": order.loss_of_accuracy}, "rows": len(effect.examples),
    }


def attributions(subject: Subject) -> Working:
    """Integrated gradients with their completeness error."""
    yield 0.0
    found = integrated_gradients(subject.effect, subject.prompt)
    return {
        "attribution": found.attribution.tolist(), "error": found.error, "steps": found.steps,
        "is_complete": found.is_complete,
    }


def attention(subject: Subject) -> Working:
    """Attention mass by layer, head and virtual token."""
    yield 0.0
    found = attention_mass(subject.effect, subject.prompt)
    return {
        "by_layer_and_head": found.by_layer_and_head.tolist(), "by_token": found.by_token.tolist(),
        "mass": found.mass.tolist(),
    }


def signature(subject: Subject) -> Working:
    """What the prompt makes the model say."""
    base, vocabulary = subject.effect.base, subject.vocabulary
    found = signature_words(subject.effect, subject.prompt, vocabulary)
    yield 0.5
    expected = expected_words(base, subject.prompt, vocabulary)
    return {
        "raised": _words(found.raised), "lowered": _words(found.lowered),
        "expected": [_words(row) for row in expected], "continued": continued_text(base, subject.prompt),
    }


def says_of_itself(subject: Subject) -> Working:
    """Self-verbalisation with plug-in recovery, beside its controls."""
    yield 0.0
    found = elicit(subject.effect, subject.prompt, start=subject.start, other=subject.other)
    return {
        "answers": [asdict(a) for a in found.answers],
        "controls": {name: [asdict(a) for a in answers] for name, answers in found.controls.items()},
        "best_control": found.best_control, "says_something": found.says_something,
    }


READINGS: dict[str, Callable[[Subject], Working]] = {
    "ladder": ladder, "signature": signature, "tokens": tokens, "attributions": attributions, "attention": attention,
    "says_of_itself": says_of_itself,
}
"""The readings by name, in the order in which a page shows them."""


def _working(
    steps: Generator[steering.SteeringStep, None, list[int]], *, start: float, end: float
) -> Generator[float, None, list[int]]:
    while True:
        try:
            step = next(steps)
        except StopIteration as finished:
            return list(finished.value)
        yield start + (end - start) * step.step / step.of


def _text(effect: Effect, ids: Sequence[int]) -> str:
    return str(effect.base.tokenizer.decode(list(ids)))


def _words(found: Sequence[Neighbour]) -> list[dict[str, Any]]:
    return [asdict(word) for word in found]
