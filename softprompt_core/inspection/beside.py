"""A prompt beside something else: another run's prompt, or a twin of its own whose nearest words spell any text.

Axis letters: P virtual tokens, H embedding width.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from softprompt_core.errors import UserError
from softprompt_core.inspection.effect import Outcome
from softprompt_core.inspection.neighbours import nearest_words
from softprompt_core.inspection.pairs import likeness, line
from softprompt_core.inspection.projection import project, vocabulary_basis
from softprompt_core.inspection.retention import rung
from softprompt_core.inspection.steering import TWIN_STEPS, wayward_twin
from softprompt_core.inspection.study import Subject, Working
from softprompt_core.inspection.vocabulary import Vocabulary
from softprompt_core.records import FloatArray
from softprompt_core.tokenising import text_token_ids
from softprompt_core.visible import token_style


def pair(subject: Subject, other: FloatArray, *, other_start: FloatArray | None = None) -> Working:
    """Two prompts: likeness, matched tokens with their words, places on one basis, and the line between them.

    Loss and accuracy along the line are measured on the subject's rows.
    """
    yield 0.0
    vocabulary, basis = subject.vocabulary, vocabulary_basis(subject.vocabulary, components=2)
    starts = (subject.start, other_start)
    both = all(start is not None and start.shape == prompt.shape for start, prompt in zip(
        starts, (subject.prompt, other), strict=True
    ))
    found = likeness(
        subject.prompt, other, vocabulary,
        first_start=starts[0] if both else None, second_start=starts[1] if both else None,
    )
    words = [_words(prompt, vocabulary) for prompt in (subject.prompt, other)]
    yield 0.3
    points, reason = None, ""
    try:
        points = [asdict(point) for point in line(subject.effect, subject.prompt, other)]
    except UserError as error:
        reason = str(error)
    return {
        **asdict(found),
        "matches": [
            {**asdict(m), "first_word": words[0][m.first], "second_word": words[1][m.second]} for m in found.matches
        ],
        "places": [project(prompt, basis)[:, :2].tolist() for prompt in (subject.prompt, other)],
        "explained": [float(share) for share in basis.explained_variance_ratio[:2]],
        "line": points, "line_reason": reason, "rows": len(subject.effect.examples),
    }


def twin(subject: Subject, text: str, *, steps: int = TWIN_STEPS) -> Working:
    """A wayward twin: what it does beside the prompt itself and beside the text alone; `prompt` holds its vectors.

    A text longer than the prompt is cut, a shorter one repeated. Raises UserError when it holds no word.
    """
    effect = subject.effect
    tokenizer = effect.base.tokenizer
    leads = token_style(tokenizer) == "byte_level"      # there a word within a text begins with its space
    ids = text_token_ids(f" {text}" if leads else text, tokenizer)
    if not ids:
        raise UserError(f"The model knows no word in {text!r}. Give other words.")
    yield 0.0
    training = wayward_twin(effect, subject.prompt, ids, steps=steps)
    while True:
        try:
            step = next(training)
        except StopIteration as finished:
            vectors: FloatArray = finished.value
            break
        yield 0.9 * step.step / step.of
    wanted = [ids[i % len(ids)] for i in range(len(vectors))]
    nearest = nearest_words(vectors, subject.vocabulary, top=1)
    spelled = [words[0].id if words else None for words in nearest]
    return {
        "text": text, "is_cut": len(ids) > len(vectors), "steps": steps, "rows": len(effect.examples),
        "words": _words(vectors, subject.vocabulary), "before": _words(subject.prompt, subject.vocabulary),
        "spelled": float(np.mean([a == b for a, b in zip(wanted, spelled, strict=True)])),
        "rungs": [
            _figures("prompt", effect.of(subject.prompt)), _figures("twin", effect.of(vectors)),
            _figures("words", effect.of_words(wanted)), _figures("no_prompt", effect.of_nothing()),
        ],
        "prompt": vectors,
    }


def _figures(kind: str, outcome: Outcome) -> dict[str, Any]:
    return asdict(rung(kind, outcome))


def _words(prompt: FloatArray, vocabulary: Vocabulary) -> list[str]:
    return [words[0].token if words else "–" for words in nearest_words(prompt, vocabulary, top=1)]
