"""What a prompt does: its scores on a fixed set of labelled rows, the measure behind every reading of behaviour.

Axis letters: N rows, C labels, P virtual tokens, H embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from softprompt_core.errors import UserError
from softprompt_core.evaluation import Cancelled, hard_prompt, label_scores
from softprompt_core.models import BaseModel, embedding_table
from softprompt_core.plans import LayoutName, Row
from softprompt_core.records import FloatArray
from softprompt_core.running import Order
from softprompt_core.self_check import choose_layout
from softprompt_core.tokenising import Example, TokenisedTask

FEWEST_ROWS = 20


@dataclass(frozen=True)
class Outcome:
    """One prompt on the rows: scores [N, C] log p of every label; right [N] label numbers; tokens [C] label lengths."""

    scores: np.ndarray
    right: np.ndarray
    tokens: np.ndarray

    @cached_property
    def is_correct(self) -> np.ndarray:
        """Whether the highest score is the right label's, [N] bool."""
        return self.scores.argmax(1) == self.right

    @property
    def accuracy(self) -> float:
        return float(self.is_correct.mean())

    @cached_property
    def row_losses(self) -> np.ndarray:
        """−log p of the right label per row, summed over its tokens, in nats, [N]."""
        return -self.scores[np.arange(len(self.right)), self.right]

    @property
    def loss(self) -> float:
        """−log p of the right labels per label token, in nats: the loss of training."""
        return float(self.row_losses.sum() / self.tokens[self.right].sum())

    @cached_property
    def label_log_shares(self) -> np.ndarray:
        """The scores as log of shares that sum to one over the labels, [N, C]."""
        return self.scores - np.logaddexp.reduce(self.scores, axis=1, keepdims=True)


class Effect:
    """Measures prompts on the same rows of one task, through one frozen model."""

    def __init__(
        self,
        base: BaseModel,
        tokens: TokenisedTask,
        *,
        rows: int = 200,
        seed: int = 0,
        split: str = "test",
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Takes at most `rows` rows of a split, drawn by `seed`. Raises UserError when there are too few."""
        examples = tokens.splits[split]
        if len(examples) < FEWEST_ROWS:
            raise UserError(
                f"{len(examples)} {split} rows are too few to measure what a prompt does; at least {FEWEST_ROWS} are "
                "needed. Give more data."
            )
        drawn = np.random.default_rng(seed).permutation(len(examples))[:rows]
        self.base, self.tokens = base, tokens
        self.examples: list[Example] = [examples[i] for i in sorted(drawn)]
        self.right = np.array([e.label for e in self.examples])
        self._lengths = np.array([len(ids) for ids in tokens.label_ids])
        self._should_stop = should_stop

    @cached_property
    def layout(self) -> LayoutName:
        """The fastest layout that equals plain concatenation on this model."""
        labels = self.tokens.label_ids
        rows = [Row(e.context, (labels[e.label], labels[(e.label + 1) % len(labels)])) for e in self.examples[:8]]
        start = embedding_table(self.base)[:4][None].to(self.base.device)
        return choose_layout(self.base, start, [rows], longest_tokens=self.tokens.longest_tokens + 1_000).name

    def check_stop(self) -> None:
        """Raises evaluation.Cancelled when the caller has asked to stop."""
        if self._should_stop():
            raise Cancelled

    def part(self, which: Sequence[int]) -> Effect:
        """The same measure on some of its rows."""
        part = object.__new__(Effect)
        part.__dict__.update(self.__dict__)
        part.examples = [self.examples[i] for i in which]
        part.right = self.right[list(which)]
        return part

    def of(self, prompt: FloatArray | torch.Tensor) -> Outcome:
        """What a prompt [P, H] does; P may be 0. Raises evaluation.Cancelled when asked to stop."""
        lead = prompt if isinstance(prompt, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(prompt))
        scores = label_scores(
            self.base, lead, [e.context for e in self.examples], self.tokens.label_ids, layout=self.layout,
            should_stop=self._should_stop,
        )
        return Outcome(scores, self.right, self._lengths)

    def of_words(self, ids: Sequence[int]) -> Outcome:
        """What these tokens do in the prompt's place."""
        return self.of(embedding_table(self.base)[torch.tensor(list(ids), dtype=torch.long)])

    def of_text(self, text: str) -> Outcome:
        """What a hand-written text does in the prompt's place."""
        return self.of(hard_prompt(self.base, text, longest=self._room))

    def of_nothing(self) -> Outcome:
        """What the model does with nothing before the text."""
        return self.of(torch.zeros(0, self.base.hidden_size))

    @property
    def _room(self) -> int | None:
        return None if self.base.context is None else max(1, self.base.context - self.tokens.longest_tokens)

    def rows(self, count: int | None = None) -> list[Row]:
        """The first rows with their right labels, for losses with gradients."""
        return self._labelled(self.examples[:count])

    def training_rows(self, count: int) -> list[Row]:
        """Rows of the training split with their right labels, spread over it."""
        examples = self.tokens.splits["train"]
        return self._labelled(examples[::max(1, len(examples) // count)][:count])

    def training_batches(self, size: int, *, seed: int) -> Iterator[list[Row]]:
        """Batches of training rows without end, in the order that a run of this seed would see."""
        examples = self.tokens.splits["train"]
        order = Order(len(examples), batch_size=size, seed=seed)
        while True:
            yield self._labelled([examples[i] for i in order.next()])

    def _labelled(self, examples: Sequence[Example]) -> list[Row]:
        return [Row(e.context, (self.tokens.label_ids[e.label],)) for e in examples]


def divergence(found: Outcome, expected: Outcome) -> float:
    """Mean over rows of KL(expected ‖ found) between the shares of the labels, in nats."""
    log_p, log_q = expected.label_log_shares, found.label_log_shares
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())
