"""How a batch is laid out for one forward pass of the frozen model.

A pass holds K prompts. Every prompt has its own rows; a row is a text and one or more continuations
(a label in training, every label when scoring). A plan lays them out in lines that go through the model together:

- concatenated: one line a continuation, `[prompt | text | continuation]`, plain causal attention;
- packed: many texts a line, `[prompt | text 1 | its continuations | text 2 | …]` with a mask by which each
  token sees the prompt, its own text and its own continuation. In a causal model the prompt's states do
  not depend on the text, so both give the same numbers, and the prompt is computed once a line.

Positions are contiguous in both. The last token of a continuation is never fed, and logits are computed
only where a token is predicted. Nothing is padded on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from softprompt_core.models import BaseModel

LayoutName = Literal["packed", "concatenated"]
LINE_TOKENS = 512
"""Longest packed line: beyond it, attention over texts that cannot see each other costs more than it saves."""


@dataclass(frozen=True)
class Row:
    """One text, and what may follow it; plain token ids."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Plan:
    """Lines ready for the model: R lines of at most L tokens, N predicted tokens, C continuations.

    prompt_of: [R] which of the K prompts leads the line; ids, positions: [R, L] without the prompt's part
    filled; text, branch: [R, L] which text and continuation a token belongs to (−1 prompt or shared);
    keep: [R, L] where logits are needed; source: [N] row of the kept logits; target: [N] token id;
    owner: [N] continuation, numbered by prompt, then row, then order.
    """

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
    is_masked: bool


def plan(batches: Sequence[Sequence[Row]], *, prompt_length: int, layout: LayoutName) -> Plan:
    """The lines of one pass; batches[k] are the rows of prompt k."""
    lines: list[_Line] = []
    owner = 0
    for k, rows in enumerate(batches):
        line: _Line | None = None
        for row in rows:
            branches = range(owner, owner + len(row.continuations))
            owner += len(row.continuations)
            if layout == "concatenated":
                for number, continuation in zip(branches, row.continuations, strict=True):
                    lines.append(line := _Line(k, prompt_length))
                    line.add(row.context, [(number, continuation)])
                continue
            size = len(row.context) + sum(len(c) - 1 for c in row.continuations)
            if line is None or len(line.ids) + size > LINE_TOKENS:
                lines.append(line := _Line(k, prompt_length))
            line.add(row.context, list(zip(branches, row.continuations, strict=True)))
    return _freeze(lines, owner, is_masked=layout == "packed")


class _Line:
    """One line while it is being laid out; lists are parallel, one entry a token."""

    def __init__(self, k: int, prompt_length: int) -> None:
        self.k, self.prompt_length, self.texts = k, prompt_length, 0
        self.ids = [0] * prompt_length
        self.positions = list(range(prompt_length))
        self.text = [-1] * prompt_length
        self.branch = [-1] * prompt_length
        self.predictions: list[tuple[int, int, int]] = []

    def add(self, context: Sequence[int], branches: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Appends a text and its numbered continuations."""
        self._extend(context, self.prompt_length, -1)
        last, after = len(self.ids) - 1, self.prompt_length + len(context)
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


def _freeze(lines: list[_Line], continuations: int, *, is_masked: bool) -> Plan:
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
    return Plan(
        prompt_of=np.array([line.k for line in lines]), ids=ids, positions=positions, text=text, branch=branch,
        keep=keep, source=source, target=target, owner=owner, continuations=continuations,
        tokens=sum(len(line.ids) for line in lines), is_masked=is_masked,
    )


def continuation_scores(base: BaseModel, prompts: torch.Tensor, lines: Plan) -> torch.Tensor:
    """Sum of log p over each continuation's tokens, [C] float32; prompts: [K, P, H] float32, differentiable."""
    logits = _logits(base, prompts, lines)
    source, target, owner = (
        torch.from_numpy(a).to(logits.device) for a in (lines.source, lines.target, lines.owner)
    )
    picked = torch.log_softmax(logits.float(), dim=-1)[source, target]
    return torch.zeros(lines.continuations, device=picked.device).index_add(0, owner, picked)


def batch_losses(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], *, layout: LayoutName
) -> tuple[torch.Tensor, Plan]:
    """(losses [K], the plan): per prompt −log p summed over its label tokens, divided by their number."""
    lines = plan(batches, prompt_length=prompts.shape[1], layout=layout)
    scores = continuation_scores(base, prompts, lines)
    group = torch.tensor([k for k, rows in enumerate(batches) for row in rows for _ in row.continuations])
    counts = torch.tensor(
        [sum(len(c) for row in rows for c in row.continuations) for rows in batches], device=scores.device
    )
    total = torch.zeros(len(batches), device=scores.device).index_add(0, group.to(scores.device), scores)
    return -total / counts, lines


def _logits(base: BaseModel, prompts: torch.Tensor, lines: Plan) -> torch.Tensor:
    """Logits where a token is predicted, [N, V]."""
    device = base.device
    embed = base.module.get_input_embeddings()
    words = embed(torch.from_numpy(lines.ids).to(device))
    length = prompts.shape[1]
    lead = prompts[torch.from_numpy(lines.prompt_of).to(device)].to(words.dtype)
    arguments: dict[str, Any] = {"inputs_embeds": torch.cat([lead, words[:, length:]], dim=1)}
    if "use_cache" in base.forward_arguments:
        arguments["use_cache"] = False
    if lines.is_masked:
        arguments["attention_mask"] = _mask(lines, device, words.dtype)
        if "position_ids" in base.forward_arguments:
            arguments["position_ids"] = torch.from_numpy(lines.positions).to(device)
    keep = torch.from_numpy(lines.keep).to(device)
    if "logits_to_keep" in base.forward_arguments:
        logits = base.module(**arguments, logits_to_keep=keep).logits
        if logits.ndim == 2:
            return logits
    else:
        logits = base.module(**arguments).logits
    return logits[keep]


def _mask(lines: Plan, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask, [R, 1, L, L]: a token sees the prompt, its own text and its own continuation."""
    text, branch = torch.from_numpy(lines.text).to(device), torch.from_numpy(lines.branch).to(device)
    ours, theirs = text[:, :, None], text[:, None, :]
    shares_branch = (branch[:, None, :] == -1) | (branch[:, :, None] == branch[:, None, :])
    sees = (theirs == -1) | ((ours == theirs) & shares_branch)
    sees = sees.tril()
    blocked = torch.finfo(dtype).min
    return torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill(~sees, blocked)[:, None]


@dataclass(frozen=True)
class Choice:
    """The layout for a model, and why; `warning` is set when the fast one could not be used."""

    name: LayoutName
    reason: str
    is_fallback: bool


def choose_layout(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], *, longest_tokens: int
) -> Choice:
    """The fastest layout whose loss and prompt gradient equal plain concatenation's on this batch.

    `longest_tokens` is the longest line that can occur, prompt included: where it passes a sliding window
    the packed mask would lift the window, so concatenation is taken.
    """
    if base.window is not None and longest_tokens > base.window:
        reason = f"rows of up to {longest_tokens} tokens pass the model's attention window of {base.window}"
        return Choice("concatenated", reason, True)
    if base.is_local_by_place:
        return Choice("concatenated", "some layers see only the last places of a line, which packing would fill", True)
    tolerance = 1e-5 if base.dtype == torch.float32 else 1e-2
    expected = _loss_and_gradient(base, prompts, batches, "concatenated")
    try:
        found = _loss_and_gradient(base, prompts, batches, "packed")
    except torch.OutOfMemoryError:
        return Choice("concatenated", "the packed form does not fit in memory", True)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        said = " ".join(str(error).split())[:120]
        return Choice("concatenated", f"this architecture refuses the packed mask ({said})", True)
    difference = max(_relative(a, b) for a, b in zip(found, expected, strict=True))
    if not difference <= tolerance:
        return Choice(
            "concatenated",
            f"packed rows differ from plain concatenation by {difference:.1e}, more than {tolerance:.0e}",
            True,
        )
    return Choice("packed", f"equal to plain concatenation within {difference:.1e} on the first batch", False)


def _loss_and_gradient(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], layout: LayoutName
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = prompts.detach().clone().requires_grad_(True)
    losses, _ = batch_losses(base, leaf, batches, layout=layout)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))
