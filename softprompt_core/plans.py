"""How a batch is laid out in lines that go through the frozen model together; plain numbers, no model.

A pass holds K prompts. Every prompt has its own rows; a row is a text and one or more continuations
(a label in training, every label when scoring). There are four layouts for causal models:

- packed: many texts a line, `[prompt | text 1 | its continuations | text 2 | …]` with a mask by which each
  token sees the prompt, its own text and its own continuation. In a causal model the prompt's states do
  not depend on the text, so the numbers stay the same, and the prompt is computed once a line;
- cached: one line a continuation, `[text | continuation]`, run after the keys and values of the prompt, which is
  computed once; prefixes, which are keys and values to begin with, can be had no other way;
- concatenated: one line a continuation, `[prompt | text | continuation]`, plain causal attention;
- peft: the same as PEFT lays it out, `[prompt | padding | text | continuation]`, for whoever must match an old run.

An encoder–decoder has a layout of its own, encoder_decoder: one line a text, `[prompt | text]`, for the encoder. The
continuations are the decoder's: only `target` and `owner` hold them, and `source` is the line of their text.

In the first three nothing is padded on the left, positions are contiguous, and all give the same numbers. In all, the
last token of a continuation is never fed, and logits are computed only where a token is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LayoutName = Literal["packed", "cached", "concatenated", "peft", "encoder_decoder"]
LINE_TOKENS = 512
"""Longest packed line: beyond it, attention over texts that cannot see each other costs more than it saves."""


@dataclass(frozen=True)
class Row:
    """One text, and what may follow it; plain token ids."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Plan:
    """Lines ready for the model: R lines of at most T tokens, N predicted tokens, C continuations.

    prompt_of: [R] which of the K prompts leads the line; ids, positions: [R, T] without the prompt's part
    filled; text, branch: [R, T] which text and continuation a token belongs to (−1 prompt or shared, −2 padding);
    keep: [R, T] where logits are needed; source: [N] row of the kept logits; target: [N] token id;
    owner: [N] continuation, numbered by prompt, then row, then order; tokens: how many are computed.
    """

    layout: LayoutName
    prompt_of: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    text: np.ndarray
    branch: np.ndarray
    keep: np.ndarray
    source: np.ndarray
    target: np.ndarray
    owner: np.ndarray
    continuations: int
    tokens: int

    @property
    def is_masked(self) -> bool:
        """Whether tokens of a line must not all see those before them."""
        return self.layout == "packed"

    def tokens_of(self, k: int) -> int:
        """How many of the computed tokens are prompt k's and its rows'."""
        there = (self.text > -2).sum(1)
        return round(self.tokens * int(there[self.prompt_of == k].sum()) / int(there.sum()))


def plan(
    batches: Sequence[Sequence[Row]], *, prompt_length: int, layout: LayoutName, padded_to: int | None = None
) -> Plan:
    """The lines of one pass; batches[k] are the rows of prompt k.

    padded_to: for the layout peft the tokens that text and continuation are padded to, PEFT's `max_length`; longer
    rows stay whole, and without it the longest row of the pass decides.
    """
    lines: list[_Line] = []
    owner = 0
    width = max(
        [padded_to or 0, *(len(r.context) + len(c) for rows in batches for r in rows for c in r.continuations)]
    )
    for k, rows in enumerate(batches):
        line: _Line | None = None
        shared = _shared([row.context for row in rows]) if layout == "packed" else 0
        for row in rows:
            branches = list(zip(range(owner, owner + len(row.continuations)), row.continuations, strict=True))
            owner += len(row.continuations)
            if layout == "encoder_decoder":
                lines.append(line := _Line(k, prompt_length))
                line.add(row.context, [])
                line.predictions = [(len(line.ids) - 1, t, number) for number, c in branches for t in c]
                continue
            if layout != "packed":
                for number, continuation in branches:
                    lines.append(line := _Line(k, prompt_length))
                    if layout == "peft":
                        line.pad(width - len(row.context) - len(continuation))
                    line.add(row.context, [(number, continuation)])
                continue
            size = len(row.context) - shared + sum(len(c) - 1 for c in row.continuations)
            if line is None or len(line.ids) + size > LINE_TOKENS:
                lines.append(line := _Line(k, prompt_length))
                line.share(row.context[:shared])
            line.add(row.context[shared:], branches)
    return _freeze(lines, owner, layout, prompt_length)


def divided(
    rows: Sequence[Row], *, prompt_length: int, layout: LayoutName, tokens: int, predictions: int,
    padded_to: int | None = None,
) -> list[list[Row]]:
    """The rows of one prompt in order, in parts of at most so many predictions and tokens, padding and prompts counted.

    As much goes into a part as there is room for; a row is a part by itself where it alone is more.
    """
    parts: list[list[Row]] = []
    least = prompt_length + (padded_to or 0) if layout == "peft" else 0
    total = line = width = predicted = 0
    for row in rows:
        predicts = sum(map(len, row.continuations))
        size = len(row.context) + predicts
        begins_line = layout != "packed" or not line or line + size > LINE_TOKENS
        after = total + size + prompt_length * begins_line
        if layout != "packed" and parts:        # every line is as long as the longest
            after = (len(parts[-1]) + 1) * max(width, size + prompt_length)
        if not parts or after > tokens or predicted + predicts > predictions:
            parts.append([])
            after, begins_line, width, predicted = max(least, size + prompt_length), True, least, 0
        parts[-1].append(row)
        total, width, predicted = after, max(width, size + prompt_length), predicted + predicts
        line = size + (prompt_length if begins_line else line)
    return parts


def _shared(contexts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with, at most all but one of the shortest: such is a template's beginning."""
    most = max(0, min(map(len, contexts), default=0) - 1)
    return next((i for i in range(most) if any(ids[i] != contexts[0][i] for ids in contexts)), most)


class _Line:
    """One line while it is being laid out; lists are parallel, one entry a token."""

    def __init__(self, k: int, prompt_length: int) -> None:
        self.k, self.start, self.texts = k, prompt_length, 0
        self.ids = [0] * prompt_length
        self.positions = list(range(prompt_length))
        self.text = [-1] * prompt_length
        self.branch = [-1] * prompt_length
        self.predictions: list[tuple[int, int, int]] = []

    def pad(self, count: int) -> None:
        """Appends tokens that nobody sees, but that take places."""
        self.ids += [0] * count
        self.positions += range(self.start, self.start + count)
        self.text += [-2] * count
        self.branch += [-1] * count
        self.start += count

    def share(self, ids: Sequence[int]) -> None:
        """Appends tokens that every text of the line begins with; like the prompt, all of them see it."""
        self.ids += ids
        self.positions += range(self.start, self.start + len(ids))
        self.text += [-1] * len(ids)
        self.branch += [-1] * len(ids)
        self.start += len(ids)

    def add(self, context: Sequence[int], branches: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Appends a text and its numbered continuations."""
        self._extend(context, self.start, -1)
        last, after = len(self.ids) - 1, self.start + len(context)
        for order, (number, continuation) in enumerate(branches):
            at = len(self.ids)
            self._extend(continuation[:-1], after, order)
            where = [last, *range(at, at + len(continuation) - 1)]
            self.predictions += [(w, t, number) for w, t in zip(where, continuation, strict=True)]
        self.texts += 1

    def _extend(self, ids: Sequence[int], start: int, branch: int) -> None:
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.text += [self.texts] * len(ids)
        self.branch += [branch] * len(ids)


def _freeze(lines: list[_Line], continuations: int, layout: LayoutName, prompt_length: int) -> Plan:
    longest = max(len(line.ids) for line in lines)
    shape = (len(lines), longest)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    text, branch = np.full(shape, -2, np.int64), np.full(shape, -1, np.int64)
    keep = np.zeros(shape, bool)
    for r, line in enumerate(lines):
        n = len(line.ids)
        ids[r, :n], positions[r, :n] = line.ids, line.positions
        positions[r, n:] = line.positions[-1]
        text[r, :n], branch[r, :n] = line.text, line.branch
        keep[r, [at for at, _, _ in line.predictions]] = True
    order = np.cumsum(keep.reshape(-1)).reshape(shape) - 1
    found = [(order[r, at], token, number) for r, line in enumerate(lines) for at, token, number in line.predictions]
    source, target, owner = (np.array(column, np.int64) for column in zip(*found, strict=True))
    prompt_of = np.array([line.k for line in lines])
    prompts = len(np.unique(prompt_of)) if layout == "cached" else len(lines)
    tokens = sum(len(line.ids) - prompt_length for line in lines) + prompts * prompt_length
    tokens += len(target) if layout == "encoder_decoder" else 0
    return Plan(
        layout=layout, prompt_of=prompt_of, ids=ids, positions=positions, text=text, branch=branch, keep=keep,
        source=source, target=target, owner=owner, continuations=continuations, tokens=tokens,
    )
