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
COPIED = 32
"""Prompts' spans of up to so many tokens are copied for every text: small products cost more than copies."""
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
    """Spans of like length, in U places: as many for each of the K prompts whose spans they are, some perhaps empty.

    At most S tokens of a span ask; they see at most C tokens, the L of the prompt's span and those of their own.
    asking: [U S] numbers of the queries; lead: [K L] and own: [U (C − L)] rows of the pass; mask: [1 or heads, U, 1,
    S, C], added to scores.
    """

    prompts: int
    spans: int
    asking: torch.Tensor
    lead: torch.Tensor
    own: torch.Tensor
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
        prompts, place, count = _placed(np.where(spans.lead[members] < 0, members, spans.lead[members]))
        column = _counted(np.bincount(unit))
        asking = np.zeros((count, column.max() + 1), np.int64)
        asking[place[unit], column] = mine
        back[mine] = begin + place[unit] * asking.shape[1] + column
        begin += asking.size
        lead, own, sees = _seen(prompts, members, place, rows[asking], spans)
        seen = np.concatenate([np.repeat(lead, count // len(prompts), axis=0), own], axis=1)
        groups.append(_Group(
            prompts=len(prompts), spans=count, asking=torch.from_numpy(asking.ravel()).to(base.device),
            lead=torch.from_numpy(lead.ravel()).to(base.device), own=torch.from_numpy(own.ravel()).to(base.device),
            mask=_mask(sees, spans.position[seen], base, slopes),
        ))
    return _Asking(groups, torch.from_numpy(back).to(base.device))


def _placed(prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(the prompts, the place of each span where every prompt has as many, how many places); prompt: of each span."""
    prompts, number, counts = np.unique(prompt, return_inverse=True, return_counts=True)
    within = np.zeros(len(prompt), np.int64)
    within[np.argsort(number, kind="stable")] = _counted(counts)
    return prompts, number * counts.max() + within, len(prompts) * int(counts.max())


def _seen(
    prompts: np.ndarray, members: np.ndarray, place: np.ndarray, asking: np.ndarray, spans: _Spans
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows of the prompts' spans [K, L], of each place's own span, which of both each token sees [U, S, C]).

    L is 0 where no text asks, for a prompt's span is its own, and where prompts are so short that their span stands
    before each text's.
    """
    is_text, size, first = (np.zeros(len(asking), kind) for kind in (bool, np.int64, np.int64))
    is_text[place], size[place], first[place] = spans.lead[members] >= 0, spans.size[members], spans.first[members]
    ahead, each = spans.size[prompts] * is_text.any(), len(asking) // len(prompts)
    copied = np.repeat(ahead, each) * is_text * (ahead.max() <= COPIED)
    lead = np.zeros((len(prompts), ahead.max() * (ahead.max() > COPIED)), np.int64)
    own = np.zeros((len(asking), (copied + size).max()), np.int64)
    if lead.size:
        _fill(lead, np.zeros_like(ahead), spans.first[prompts], ahead)
    _fill(own, np.zeros_like(copied), np.repeat(spans.first[prompts], each), copied)
    _fill(own, copied, first, size)
    sees_lead = np.arange(lead.shape[1]) < (np.repeat(ahead, each) * is_text)[:, None]
    within = np.arange(own.shape[1]) - copied[:, None]      # negative in the prompt's span before a text
    branch = np.where(within < 0, -1, spans.branch[own])[:, None]
    sees_own = (branch == -1) | (branch == spans.branch[asking][:, :, None])
    sees_own &= within[:, None] <= spans.within[asking][:, :, None]
    sees_own[size == 0] = True      # an empty place's padding must see something
    sees_lead = np.broadcast_to(sees_lead[:, None], (*sees_own.shape[:2], lead.shape[1]))
    return lead, own, np.concatenate([sees_lead, sees_own], axis=2)


def _fill(matrix: np.ndarray, column: np.ndarray, start: np.ndarray, size: np.ndarray) -> None:
    """Writes start, start + 1, … into each row of the matrix, from its column on, as many as its size."""
    row, within = np.repeat(np.arange(len(size)), size), _counted(size)
    matrix[row, column[row] + within] = start[row] + within


def _mask(sees: np.ndarray, positions: np.ndarray, base: BaseModel, slopes: torch.Tensor | None) -> torch.Tensor:
    """What is added to scores, [1 or heads, U, 1, S, C]; positions: [U, C] of the tokens seen."""
    added = torch.zeros(1, dtype=base.dtype, device=base.device)
    if slopes is not None:      # rounded where the model rounds it
        far = torch.from_numpy(positions).to(base.device)
        added = (slopes[:, None, None, None, None] * far[None, :, None, None]).to(base.dtype)
    hidden = torch.from_numpy(~sees[None, :, None]).to(base.device)
    return added.masked_fill(hidden, torch.finfo(base.dtype).min)


def _counted(sizes: np.ndarray) -> np.ndarray:
    """0, 1, … for each of the sizes, one after another."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


# --------------------------------------------------------------- attention


_Seen = tuple[torch.Tensor, torch.Tensor]
"""Keys or values of a group: the prompts' [heads × K, L, D] and the spans' own [heads × U, C − L, D]."""


class _Attend(torch.autograd.Function):
    """Scaled dot-product attention: q [n, heads, D], k, v [rows, heads, D] → what each query gathers, [n, heads D].

    Written out, forwards and backwards, because texts are short: on a CPU torch's fused kernel takes one and a half
    times as long in float32, and its backward pass six times as long in bfloat16 (8 texts of 35 tokens). All texts
    of a prompt ask its keys at once, so that they are not copied for each.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, asking: _Asking, scale: float
    ) -> torch.Tensor:
        outs, saved = [], []
        for group in asking.groups:
            queries = _by_head(q.index_select(0, group.asking), group.spans, k.shape[1])
            keys, values = _seen_by_head(k, group), _seen_by_head(v, group)
            weights = _weights(queries, keys, group.mask, scale)
            outs.append(_by_token(_sum(weights, values), group.spans, len(group.asking)))
            saved += [queries, *keys, *values, weights if weights.numel() <= KEPT_WEIGHTS else None]
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
            queries, k_lead, k_own, v_lead, v_own, weights = ctx.saved_tensors[6 * i:6 * i + 6]
            if weights is None:
                weights = _weights(queries, (k_lead, k_own), group.mask, ctx.scale)
            out = _by_head(padded[i].view(sizes[i], -1, width), group.spans, heads)
            slope = _dot(out, (v_lead, v_own)).mul_(weights)
            slope.addcmul_(weights, slope.sum(-1, keepdim=True), value=-1).mul_(ctx.scale)
            to_q.append(_by_token(_sum(slope, (k_lead, k_own)), group.spans, sizes[i]))
            for total, given, received in ((to_k, slope, queries), (to_v, weights, out)):
                own = torch.bmm(given[..., k_lead.shape[1]:].transpose(1, 2), received)
                total.index_add_(0, group.own, _by_token(own, group.spans, len(group.own)))
                if len(group.lead):
                    lead = torch.bmm(_of_prompts(given, k_lead).transpose(1, 2), received.view(len(k_lead), -1, width))
                    total.index_add_(0, group.lead, _by_token(lead, group.prompts, len(group.lead)))
        queried = _joined(to_q).index_select(0, asking.back)
        return queried.view(len(g), -1, width), to_k.view(ctx.shape), to_v.view(ctx.shape), None, None


def _by_head(x: torch.Tensor, spans: int, heads: int) -> torch.Tensor:
    """[U S, heads × shared, D] → [heads × U, shared × S, D]: heads of queries that share keys stand together."""
    tokens, width, shared = len(x) // spans, x.shape[2], x.shape[1] // heads
    x = x.view(spans, tokens, heads, shared, width)
    return x.permute(2, 0, 3, 1, 4).reshape(heads * spans, shared * tokens, width)


def _by_token(x: torch.Tensor, spans: int, tokens: int) -> torch.Tensor:
    """The way back, to [U S, heads × shared × D]; tokens: U S."""
    x = x.view(len(x) // spans, spans, -1, tokens // spans, x.shape[2])
    return x.permute(1, 3, 0, 2, 4).reshape(tokens, -1)


def _seen_by_head(x: torch.Tensor, group: _Group) -> _Seen:
    """What the group's tokens see of keys or values [rows, heads, D]."""
    lead = _by_head(x.index_select(0, group.lead), group.prompts, x.shape[1])
    return lead, _by_head(x.index_select(0, group.own), group.spans, x.shape[1])


def _weights(queries: torch.Tensor, keys: _Seen, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """How much of each token seen goes into each query's answer, [heads × U, shared × S, C]."""
    scores = _dot(queries, keys)
    shaped = scores.view(len(scores) // mask.shape[1], mask.shape[1], -1, *mask.shape[3:])
    weights = torch.softmax(torch.add(mask, shaped, alpha=scale), dim=-1, dtype=torch.float32)
    return weights.to(scores.dtype).view(scores.shape)


def _dot(x: torch.Tensor, seen: _Seen) -> torch.Tensor:
    """Products of rows [heads × U, n, D] with all they may see, [heads × U, n, C]."""
    lead, own = seen
    products = torch.bmm(x, own.transpose(1, 2))
    if not lead.shape[1]:
        return products
    with_lead = torch.bmm(x.view(len(lead), -1, x.shape[2]), lead.transpose(1, 2))
    return torch.cat([with_lead.view(len(x), -1, lead.shape[1]), products], dim=2)


def _sum(weights: torch.Tensor, seen: _Seen) -> torch.Tensor:
    """Sums of what is seen, weighted by [heads × U, n, C]: [heads × U, n, D]."""
    lead, own = seen
    total = torch.bmm(weights[..., lead.shape[1]:], own)
    if not lead.shape[1]:
        return total
    return total.add_(torch.bmm(_of_prompts(weights, lead), lead).view(total.shape))


def _of_prompts(weights: torch.Tensor, lead: torch.Tensor) -> torch.Tensor:
    """The part of weights [heads × U, n, C] that falls on the prompts' spans, [heads × K, U / K × n, L]."""
    return weights[..., :lead.shape[1]].view(len(lead), -1, lead.shape[1])


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
