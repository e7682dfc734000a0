"""What a run comes to: the test figures of its prompt beside those of doing without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from softprompt_core.evaluation import (
    Evaluation,
    accuracy_interval,
    document,
    evaluate,
    hard_prompt_ids,
    majority,
    words_prompt,
)
from softprompt_core.methods import Lead
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName
from softprompt_core.tokenising import Example, TokenisedTask, text_token_ids

UNTESTED: dict[str, Any] = {
    "eval_loss": None, "eval_perplexity": None, "eval_accuracy": None, "eval_accuracy_low": None,
    "eval_accuracy_high": None, "eval_macro_f1": None, "test_rows": None,
}
"""The figures of a run whose prompt has not been tested."""
UNTRAINED = ("majority", "hand_written", "no_prompt", "few_shot")
"""Ways to do without training; the last only where it was asked for."""


class Outcomes:
    """Tests prompts on the test rows of one task; what the untrained model does is computed once."""

    def __init__(
        self, base: BaseModel, tokens: TokenisedTask, layout: LayoutName, *, is_for_words: bool = True
    ) -> None:
        """is_for_words: whether the layout was checked with prompts on this very model, and so is right for words."""
        self._base, self._tokens, self._layout = base, tokens, layout
        # PEFT's layout would put padding between the words and the text, which is no fair trial of words
        self._words_layout: LayoutName = layout if is_for_words and layout != "peft" else "concatenated"
        self._untrained: dict[tuple[str, int], tuple[Evaluation, int]] = {}

    def test(
        self, base: BaseModel, lead: Lead, *, should_stop: Callable[[], bool], padded_to: int | None = None
    ) -> Evaluation:
        """The test figures of what stands before the rows, on the model of its method; padded_to: see `label_scores`.

        Raises evaluation.Cancelled when `should_stop` says so.
        """
        return evaluate(
            base, lead, self._tokens.splits["test"], self._tokens.label_ids, layout=self._layout,
            padded_to=padded_to, should_stop=should_stop,
        )

    def baselines(
        self, written: str, *, shots: int = 0, seed: int = 0, should_stop: Callable[[], bool]
    ) -> dict[str, dict[str, Any]]:
        """Figures without training: the majority class, the hand-written prompt, no prompt at all, and few-shot.

        shots: training examples, drawn with the seed, that follow the hand-written prompt for few-shot; 0 leaves it
        out. Its entry says how many there was room for.
        """
        found: dict[str, dict[str, Any]] = {"majority": majority(self._tokens)}
        for source, text in (("hand_written", written), ("no_prompt", "")):
            found[source] = {"text": text, **document(self._test_words(text, 0, seed, should_stop)[0])}
        if shots:
            figures, fitting = self._test_words(written, shots, seed, should_stop)
            found["few_shot"] = {"text": written, "shots": fitting, **document(figures)}
        return found

    def _test_words(
        self, text: str, shots: int, seed: int, should_stop: Callable[[], bool]
    ) -> tuple[Evaluation, int]:
        """(figures of words as an untrained prompt, how many of the shots they hold)."""
        if (text, shots) not in self._untrained:
            room = None if self._base.context is None else self._base.context - self._tokens.longest_tokens
            begin, examples = self._begin(), self._tokens.splits["test"]
            if text and begin:      # a person would write the words after the model's start token, not before it
                examples = [Example(e.context[1:], e.label) for e in examples]
            ids = hard_prompt_ids(self._base, text, longest=room, begin=begin)
            drawn = draw_shots(self._tokens, shots, seed=seed)
            shown = [shot_ids(self._base, self._tokens, example, begin=begin) for example in drawn]
            fitting = _fitting(shown, None if room is None else room - len(ids))
            words = words_prompt(self._base, [*ids, *(i for shot in fitting for i in shot)])
            figures = evaluate(
                self._base, words, examples, self._tokens.label_ids, layout=self._words_layout, should_stop=should_stop
            )
            self._untrained[text, shots] = figures, len(fitting)
        return self._untrained[text, shots]

    def _begin(self) -> tuple[int, ...]:
        """The start token, where this model's texts begin with one."""
        start = self._base.tokenizer.bos_token_id
        has_start = start is not None and all(e.context[0] == start for e in self._tokens.splits["test"])
        return (start,) if has_start else ()


def draw_shots(tokens: TokenisedTask, count: int, *, seed: int) -> list[Example]:
    """At most `count` training examples in a random order, as many of each label as can be."""
    rng = np.random.default_rng(seed)
    rows = tokens.splits["train"]
    by_label: dict[int, list[Example]] = {}
    for i in rng.permutation(len(rows)):
        by_label.setdefault(rows[i].label, []).append(rows[i])
    order = list(by_label.values())
    most = max(map(len, order))
    drawn = [examples[turn] for turn in range(min(most, count)) for examples in order if turn < len(examples)][:count]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def shot_ids(base: BaseModel, tokens: TokenisedTask, example: Example, *, begin: Sequence[int]) -> list[int]:
    """A training example as the template shows it, with its label and a line break; `begin` stands before all."""
    context = example.context[len(begin):]
    return [*context, *tokens.label_ids[example.label][:-1], *text_token_ids("\n", base.tokenizer)]


def _fitting(shown: Sequence[Sequence[int]], room: int | None) -> list[Sequence[int]]:
    """Those that fit into so many tokens together, in their order; None is no limit."""
    kept: list[Sequence[int]] = []
    for ids in shown:
        if room is None or sum(map(len, kept)) + len(ids) <= room:
            kept.append(ids)
    return kept


def tested(found: Evaluation) -> dict[str, Any]:
    """Test figures under the keys of a run's result, accuracy with its 95 % interval."""
    low, high = accuracy_interval(found.accuracy, found.rows)
    return {
        "eval_loss": found.loss, "eval_perplexity": found.perplexity, "eval_accuracy": found.accuracy,
        "eval_accuracy_low": low, "eval_accuracy_high": high, "eval_macro_f1": found.macro_f1,
        "test_rows": found.rows,
    }
