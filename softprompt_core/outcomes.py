"""What a run comes to: the test figures of its prompt beside those of doing without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from softprompt_core.evaluation import Evaluation, accuracy_interval, document, evaluate, hard_prompt, majority
from softprompt_core.layouts import LayoutName
from softprompt_core.models import BaseModel
from softprompt_core.tokenising import Example, TokenisedTask

UNTESTED: dict[str, Any] = {
    "eval_loss": None, "eval_perplexity": None, "eval_accuracy": None, "eval_accuracy_low": None,
    "eval_accuracy_high": None, "eval_macro_f1": None, "test_rows": None,
}
"""The figures of a run whose prompt has not been tested."""


class Outcomes:
    """Tests prompts on the test rows of one task; what the untrained model does is computed once."""

    def __init__(self, base: BaseModel, tokens: TokenisedTask, layout: LayoutName) -> None:
        self._base, self._tokens, self._layout = base, tokens, layout
        self._hard: dict[str, Evaluation] = {}

    def test(self, base: BaseModel, prompt: torch.Tensor, *, should_stop: Callable[[], bool]) -> Evaluation:
        """The test figures of a prompt [P, H] on the model of its method.

        Raises evaluation.Cancelled when `should_stop` says so.
        """
        return self._evaluate(base, prompt, self._tokens.splits["test"], should_stop)

    def _evaluate(
        self, base: BaseModel, prompt: torch.Tensor, examples: Sequence[Example], should_stop: Callable[[], bool]
    ) -> Evaluation:
        return evaluate(
            base, prompt, examples, self._tokens.label_ids, layout=self._layout, should_stop=should_stop
        )

    def baselines(
        self, written: str, *, shots: int = 0, should_stop: Callable[[], bool]
    ) -> dict[str, dict[str, Any]]:
        """Figures without training: the majority class, the hand-written prompt, and no prompt at all."""
        return {
            "majority": majority(self._tokens),
            **{
                source: {"text": text, **document(self._test_hard(text, should_stop))}
                for source, text in (("hand_written", written), ("no_prompt", ""))
            },
        }

    def _test_hard(self, text: str, should_stop: Callable[[], bool]) -> Evaluation:
        if text not in self._hard:
            room = None if self._base.context is None else self._base.context - self._tokens.longest_tokens
            begin, examples = self._begin(), self._tokens.splits["test"]
            if text and begin:      # a person would write the words after the model's start token, not before it
                examples = [Example(e.context[1:], e.label) for e in examples]
            words = hard_prompt(self._base, text, longest=room, begin=begin)
            self._hard[text] = self._evaluate(self._base, words, examples, should_stop)
        return self._hard[text]

    def _begin(self) -> tuple[int, ...]:
        """The start token, where this model's texts begin with one."""
        start = self._base.tokenizer.bos_token_id
        has_start = start is not None and all(e.context[0] == start for e in self._tokens.splits["test"])
        return (start,) if has_start else ()


def tested(found: Evaluation) -> dict[str, Any]:
    """Test figures under the keys of a run's result, accuracy with its 95 % interval."""
    low, high = accuracy_interval(found.accuracy, found.rows)
    return {
        "eval_loss": found.loss, "eval_perplexity": found.perplexity, "eval_accuracy": found.accuracy,
        "eval_accuracy_low": low, "eval_accuracy_high": high, "eval_macro_f1": found.macro_f1,
        "test_rows": found.rows,
    }
