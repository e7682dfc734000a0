"""How good a prompt is: loss, perplexity, accuracy, macro-F1, and the figures to hold them against.

The score of a label for a row is the sum of log p over its tokens, EOS included; the highest wins. Loss is
−log p of the right label's tokens, summed over rows and divided by their number; perplexity is exp(loss).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from softprompt_core.layouts import Prefix, continuation_scores, layout_for, prompt_length
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName, Row, plan
from softprompt_core.tokenising import Example, TokenisedTask, text_token_ids

PASS_TOKENS = 2_048
"""Tokens that go through the model at once when scoring."""


class Cancelled(Exception):
    """Raised inside long evaluations when the caller's `should_stop` says so."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one prompt on some rows; predictions: [rows] label numbers."""

    loss: float
    accuracy: float
    macro_f1: float
    rows: int
    predictions: np.ndarray

    @property
    def perplexity(self) -> float | None:
        return perplexity(self.loss)


def perplexity(loss: float) -> float | None:
    """exp(loss), None where that is no finite number."""
    return math.exp(loss) if loss < 700 else None


def label_scores(
    base: BaseModel,
    prompt: torch.Tensor | Prefix,
    contexts: Sequence[Sequence[int]],
    label_ids: Sequence[Sequence[int]],
    *,
    layout: LayoutName,
    padded_to: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Log p of every label after every text, [rows, labels] float64; prompt: [P, H], P may be 0, or one prefix.

    padded_to: only for the layout peft, see `plan`; left out, the longest row with the longest label.
    """
    scores = np.zeros((len(contexts), len(label_ids)))
    order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    lead = prompt if isinstance(prompt, Prefix) else prompt.to(base.device, torch.float32)[None]
    length = prompt_length(lead)
    lengths = [len(ids) for ids in label_ids]
    layout = "cached" if isinstance(lead, Prefix) else layout_for(base, layout)
    longest = max((len(context) for context in contexts), default=0) + max(lengths)
    if layout == "packed" and base.window is not None and length + longest > base.window:
        layout = "concatenated"     # a packed mask lifts the window, and words may be longer than what was checked
    if layout == "packed":
        costs = [len(context) + sum(lengths) for context in contexts]
    else:       # a line a label, each with the prompt and the text
        least = padded_to or 0 if layout == "peft" else 0
        costs = [len(lengths) * (length + max(least, len(context) + max(lengths))) for context in contexts]
    for chunk in _chunks(order, costs):
        if should_stop():
            raise Cancelled
        rows = [Row(contexts[i], label_ids) for i in chunk]
        with torch.inference_mode():
            lines = plan([rows], prompt_length=length, layout=layout, padded_to=padded_to or longest)
            found = continuation_scores(base, lead, lines)
        scores[chunk] = found.view(len(chunk), len(label_ids)).cpu().double().numpy()
    return scores


def _chunks(order: list[int], costs: Sequence[int]) -> Iterator[list[int]]:
    """Rows in order, as many at a time as PASS_TOKENS allows; costs: [rows] tokens."""
    chunk: list[int] = []
    size = 0
    for i in order:
        if chunk and size + costs[i] > PASS_TOKENS:
            yield chunk
            chunk, size = [], 0
        chunk.append(i)
        size += costs[i]
    if chunk:
        yield chunk


def evaluate(
    base: BaseModel,
    prompt: torch.Tensor | Prefix,
    examples: Sequence[Example],
    label_ids: Sequence[Sequence[int]],
    *,
    layout: LayoutName,
    padded_to: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """The figures of a prompt [P, H] or one prefix on labelled rows; raises Cancelled when `should_stop` says so."""
    scores = label_scores(
        base, prompt, [e.context for e in examples], label_ids, layout=layout, padded_to=padded_to,
        should_stop=should_stop,
    )
    right = np.array([e.label for e in examples])
    predictions = scores.argmax(1)
    tokens = sum(len(label_ids[label]) for label in right)
    return Evaluation(
        loss=float(-scores[np.arange(len(right)), right].sum() / tokens),
        accuracy=float((predictions == right).mean()),
        macro_f1=_macro_f1(right, predictions),
        rows=len(right),
        predictions=predictions,
    )


def _macro_f1(right: np.ndarray, predictions: np.ndarray) -> float:
    """Mean F1 over the labels that occur in the rows, each label weighing the same."""
    return float(f1_score(right, predictions, labels=np.unique(right), average="macro", zero_division=0.0))


def accuracy_interval(accuracy: float, rows: int) -> tuple[float, float]:
    """The 95 % Wilson interval of an accuracy measured on so many rows (Wilson 1927)."""
    found = binomtest(round(accuracy * rows), rows).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def majority(tokens: TokenisedTask, *, split: str = "test") -> dict[str, Any]:
    """Accuracy and macro-F1 of always giving the training rows' most frequent label."""
    common = Counter(e.label for e in tokens.splits["train"]).most_common(1)[0][0]
    right = np.array([e.label for e in tokens.splits[split]])
    always = np.full_like(right, common)
    return {
        "label": tokens.task.labels[common],
        "accuracy": float((right == always).mean()),
        "macro_f1": _macro_f1(right, always),
    }


def hard_prompt_ids(
    base: BaseModel, text: str, *, longest: int | None = None, begin: Sequence[int] = ()
) -> list[int]:
    """A hand-written prompt as token ids, ending in a line break; none for no text.

    `longest` is the most tokens there is room for; a text beyond it is cut at its end. `begin` are the ids with
    which the model's texts begin.
    """
    return [*begin, *text_token_ids(text.rstrip() + "\n", base.tokenizer)][:longest] if text else []


def hard_prompt(
    base: BaseModel, text: str, *, longest: int | None = None, begin: Sequence[int] = ()
) -> torch.Tensor:
    """A hand-written prompt as the rows of its tokens, [P, H] float32; see `hard_prompt_ids`."""
    return words_prompt(base, hard_prompt_ids(base, text, longest=longest, begin=begin))


def words_prompt(base: BaseModel, ids: Sequence[int]) -> torch.Tensor:
    """Token ids as an untrained prompt, [P, H] float32 on the CPU."""
    if not ids:
        return torch.zeros(0, base.hidden_size)
    with torch.no_grad():
        return base.embed(torch.tensor([list(ids)], device=base.device))[0].float().cpu()


def document(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as the keys that other programs read."""
    return {
        "loss": evaluation.loss,
        "perplexity": evaluation.perplexity,
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "rows": evaluation.rows,
    }
