"""Our own forward pass through a frozen decoder, for packed rows and the families most in use.

It uses the model's own weights and gives the model's own numbers, sooner. Every token of a pass is one row of one
matrix, without padding. A text attends to its prompt and to itself, where the packed mask computes all pairs of a
line and hides most. The last layer is finished only where a token is predicted. The backward pass holds nothing but
activation gradients. ALiBi (BLOOM) is made from explicit positions, so BLOOM packs too.

Which models can be run so, `families` tells. The self-check at a run's start compares this pass with plain
concatenation; `give_up` keeps a model from it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from softprompt_core.families import Decoder, take_apart
from softprompt_core.models import BaseModel
from softprompt_core.plans import Plan

_GIVEN_UP: weakref.WeakSet[BaseModel] = weakref.WeakSet()
BUCKET = 64
"""Spans whose lengths lie in the same stretch of so many tokens are padded to the longest of them."""
KEPT_WEIGHTS = 1 << 22
"""Attention weights that are kept for the backward pass, in one group of one layer; beyond, they are made again."""


def give_up(base: BaseModel) -> None:
    """From now on the model's own forward pass is used."""
    _GIVEN_UP.add(base)


def is_used(base: BaseModel) -> bool:
    """Whether packed rows of this model go through our own forward pass."""
    return _decoder(base) is not None


def packed_logits(base: BaseModel, prompts: torch.Tensor, lines: Plan) -> torch.Tensor | None:
    """Logits where a token is predicted, [N, V]; None where the model's own forward pass has to give them.

    prompts: [K, P, H] float32, differentiable; lines: a packed plan.
    """
    decoder = _decoder(base)
    if decoder is None or (lines.keep & (lines.text < 0)).any():      # a label without text hangs on the prompt
        return None
    tokens = _tokens(lines, prompts.shape[1], base, decoder.slopes)
    words = base.module.get_input_embeddings()(tokens.ids)
    lead = prompts.index_select(0, tokens.leading).flatten(0, 1).to(words.dtype)
    x = decoder.begin(words.index_copy(0, tokens.prompt_rows, lead), tokens.positions)
    rotation = decoder.rotation(x, tokens.positions) if decoder.rotation else None
    for layer in decoder.layers[:-1]:
        x = layer.finish(x, _Attend.apply(*layer.project(x, rotation), tokens.all, layer.scale))
    last = decoder.layers[-1]
    q, k, v = last.project(x, rotation)
    attended = _Attend.apply(q.index_select(0, tokens.kept), k, v, tokens.predicting, last.scale)
    return decoder.end(last.finish(x.index_select(0, tokens.kept), attended))


def _decoder(base: BaseModel) -> Decoder | None:
    return None if base in _GIVEN_UP else take_apart(base.module, dtype=base.dtype, device=base.device)


# -------------------------------------------------------------- the tokens


@dataclass(frozen=True)
class _Group:
    """U spans of like length: at most S of their tokens ask, and they see at most C tokens.

    asking: [U S] numbers of the queries; seen: [U C] rows of the pass; mask: [U, 1 or heads, 1, S, C], added to scores.
    """

    spans: int
    asking: torch.Tensor
    seen: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class _Asking:
    """All that ask, in groups; back: [n] where each token is found in the groups' padded rows, one after another."""

    groups: list[_Group]
    back: torch.Tensor


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a pass, one a row: for every prompt its own and those that its texts share, then the texts.

    ids, positions: [1, n], ids 0 in the prompts; leading: the prompts, prompt_rows: where their tokens go; kept: [N]
    rows where a token is predicted; all, predicting: who asks in every layer but the last, and in the last.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    leading: torch.Tensor
    prompt_rows: torch.Tensor
    kept: torch.Tensor
    all: _Asking
    predicting: _Asking


@dataclass(frozen=True)
class _Spans:
    """What sees itself: a prompt with what its texts share, or a text, which sees its prompt's span too.

    size, first: of each span, in rows; lead: number of its prompt's span, −1 for such a span itself. For every row
    its span, its place in it, its branch and its position.
    """

    size: np.ndarray
    first: np.ndarray
    lead: np.ndarray
    span: np.ndarray
    within: np.ndarray
    branch: np.ndarray
    position: np.ndarray


def _tokens(lines: Plan, length: int, base: BaseModel, slopes: torch.Tensor | None) -> _Tokens:
    """The plan's lines as spans; what stands at the head of every line of a prompt is taken once."""
    leading, heads = np.unique(lines.prompt_of, return_index=True)
    is_lead, is_text = lines.text[heads] == -1, lines.text >= 0
    line, number = np.nonzero(is_text)[0], lines.text[is_text]
    starts = np.flatnonzero(np.r_[True, (np.diff(line) != 0) | (np.diff(number) != 0)])
    size = np.r_[is_lead.sum(1), np.diff(np.r_[starts, len(line)])]
    lead = np.r_[np.full(len(leading), -1), np.searchsorted(leading, lines.prompt_of[line[starts]])]

    def rows_of(values: np.ndarray) -> np.ndarray:
        return np.r_[values[heads][is_lead], values[is_text]]

    spans = _Spans(
        size=size, first=np.cumsum(size) - size, lead=lead, span=np.repeat(np.arange(len(size)), size),
        within=_counted(size), branch=rows_of(lines.branch), position=rows_of(lines.positions),
    )
    kept = np.flatnonzero(rows_of(lines.keep))
    prompt_rows = (spans.first[:len(leading), None] + np.arange(length)).ravel()

    def moved(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(base.device)

    return _Tokens(
        ids=moved(rows_of(lines.ids)), positions=moved(spans.position[None]), leading=moved(leading),
        prompt_rows=moved(prompt_rows), kept=moved(kept), predicting=_asking(kept, spans, base, slopes),
        all=_asking(np.arange(len(spans.span)), spans, base, slopes),
    )


def _asking(rows: np.ndarray, spans: _Spans, base: BaseModel, slopes: torch.Tensor | None) -> _Asking:
    """The given rows, in order, as queries; spans are grouped by size so that little is padded."""
    bucket = ((spans.size - 1) // BUCKET)[spans.span[rows]]
    groups, back, begin = [], np.zeros(len(rows), np.int64), 0
    for wanted in np.unique(bucket):
        mine = np.flatnonzero(bucket == wanted)
        members, unit = np.unique(spans.span[rows[mine]], return_inverse=True)
        column = _counted(np.bincount(unit))
        asking = np.zeros((len(members), column.max() + 1), np.int64)
        asking[unit, column] = mine
        back[mine] = begin + unit * asking.shape[1] + column
        begin += asking.size
        seen, sees = _seen(members, rows[asking], spans)
        groups.append(_Group(
            spans=len(members), asking=torch.from_numpy(asking.ravel()).to(base.device),
            seen=torch.from_numpy(seen.ravel()).to(base.device),
            mask=_mask(sees, spans.position[seen], base, slopes),
        ))
    return _Asking(groups, torch.from_numpy(back).to(base.device))


def _seen(members: np.ndarray, asking: np.ndarray, spans: _Spans) -> tuple[np.ndarray, np.ndarray]:
    """(rows that each span's tokens may see [U, C], which of them each asking token does see [U, S, C])."""
    own, is_text = spans.size[members], spans.lead[members] >= 0
    before = np.where(is_text, spans.size[spans.lead[members]], 0)
    seen = np.zeros((len(members), int((before + own).max())), np.int64)
    unit, place = np.repeat(np.arange(len(members)), before), _counted(before)
    seen[unit, place] = spans.first[spans.lead[members]][unit] + place
    unit, place = np.repeat(np.arange(len(members)), own), _counted(own)
    seen[unit, before[unit] + place] = spans.first[members][unit] + place
    within = np.arange(seen.shape[1]) - before[:, None]     # negative in the prompt's span before a text
    branch = np.where(within < 0, -1, spans.branch[seen])[:, None]
    sees = (branch == -1) | (branch == spans.branch[asking][:, :, None])
    sees &= within[:, None] <= spans.within[asking][:, :, None]
    return seen, sees


def _mask(sees: np.ndarray, positions: np.ndarray, base: BaseModel, slopes: torch.Tensor | None) -> torch.Tensor:
    """What is added to scores, [U, 1 or heads, 1, S, C]; positions: [U, C] of the tokens seen."""
    added = torch.zeros(1, dtype=base.dtype, device=base.device)
    if slopes is not None:      # rounded where the model rounds it
        far = torch.from_numpy(positions).to(base.device)
        added = (slopes[:, None, None, None] * far[:, None, None, None]).to(base.dtype)
    hidden = torch.from_numpy(~sees[:, None, None]).to(base.device)
    return added.masked_fill(hidden, torch.finfo(base.dtype).min)


def _counted(sizes: np.ndarray) -> np.ndarray:
    """0, 1, … for each of the sizes, one after another."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


# --------------------------------------------------------------- attention


class _Attend(torch.autograd.Function):
    """Scaled dot-product attention: q [n, heads, D], k, v [rows, heads, D] → what each query gathers, [n, heads D].

    Written out, forwards and backwards, because texts are short: on a CPU torch's fused kernel takes one and a half
    times as long in float32, and its backward pass six times as long in bfloat16 (8 texts of 35 tokens).
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, asking: _Asking, scale: float
    ) -> torch.Tensor:
        outs, saved = [], []
        for group in asking.groups:
            queries = _by_head(q.index_select(0, group.asking), group.spans, k.shape[1])
            keys = _by_head(k.index_select(0, group.seen), group.spans, k.shape[1])
            values = _by_head(v.index_select(0, group.seen), group.spans, k.shape[1])
            weights = _weights(queries, keys, group.mask, scale)
            outs.append(_by_token(torch.bmm(weights, values), group.spans, len(group.asking)))
            saved += [queries, keys, values, weights if weights.numel() <= KEPT_WEIGHTS else None]
        ctx.save_for_backward(*saved)
        ctx.asking, ctx.scale, ctx.shape = asking, scale, k.shape
        return _joined(outs).index_select(0, asking.back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        asking, (rows, heads, width), g = ctx.asking, ctx.shape, gradients[0]
        sizes = [len(group.asking) for group in asking.groups]
        padded = g.new_zeros(sum(sizes), g.shape[1]).index_copy_(0, asking.back, g).split(sizes)
        to_q, to_k, to_v = [], g.new_zeros(rows, heads * width), g.new_zeros(rows, heads * width)
        for i, group in enumerate(asking.groups):
            queries, keys, values, weights = ctx.saved_tensors[4 * i:4 * i + 4]
            if weights is None:
                weights = _weights(queries, keys, group.mask, ctx.scale)
            out = _by_head(padded[i].unflatten(1, (-1, width)), group.spans, heads)
            slope = torch.bmm(out, values.transpose(1, 2)).mul_(weights)
            slope.addcmul_(weights, slope.sum(-1, keepdim=True), value=-1).mul_(ctx.scale)
            to_q.append(_by_token(torch.bmm(slope, keys), group.spans, sizes[i]))
            for total, given, received in ((to_k, slope, queries), (to_v, weights, out)):
                part = torch.bmm(given.transpose(1, 2), received)
                total.index_add_(0, group.seen, _by_token(part, group.spans, len(group.seen)))
        queried = _joined(to_q).index_select(0, asking.back)
        return queried.unflatten(1, (-1, width)), to_k.view(ctx.shape), to_v.view(ctx.shape), None, None


def _by_head(x: torch.Tensor, spans: int, heads: int) -> torch.Tensor:
    """[U S, heads × shared, D] → [U × heads, shared × S, D]: heads of queries that share keys stand together."""
    x = x.unflatten(0, (spans, -1)).unflatten(2, (heads, -1))
    return x.permute(0, 2, 3, 1, 4).reshape(spans * heads, -1, x.shape[4])


def _by_token(x: torch.Tensor, spans: int, tokens: int) -> torch.Tensor:
    """The way back, to [U S, heads × shared × D]; tokens: U S."""
    x = x.view(spans, len(x) // spans, -1, tokens // spans, x.shape[2])
    return x.permute(0, 3, 1, 2, 4).reshape(tokens, -1)


def _weights(queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """How much of each token seen goes into each query's answer, [U × heads, shared × S, C]."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    shaped = scores.view(len(mask), len(scores) // len(mask), -1, *mask.shape[3:])
    weights = torch.softmax(torch.add(mask, shaped, alpha=scale), dim=-1, dtype=torch.float32)
    return weights.to(scores.dtype).view(scores.shape)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
