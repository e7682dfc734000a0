"""Our own forward pass through a frozen decoder, for packed rows and the families most in use.

It uses the model's own weights and gives the model's own numbers, sooner. Every token of a pass is one row of one
matrix, without padding. A text attends to its prompt and to itself, where the packed mask computes all pairs of a
line and hides most. The last layer is finished only where a token is predicted. The backward pass holds nothing but
activation gradients. ALiBi (BLOOM) is made from explicit positions, so BLOOM packs too.

A model is recognised part by part: whatever is not exactly the part we know (an adapter in a linear layer's place,
another activation, hooks, a device map) leaves the whole model to its own forward pass. The self-check at a
run's start compares this pass with plain concatenation; `give_up` keeps a model from it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from softprompt_core.models import BaseModel
from softprompt_core.plans import Plan

_GIVEN_UP: weakref.WeakSet[BaseModel] = weakref.WeakSet()
BUCKET = 64
"""Spans whose lengths lie in the same stretch of so many tokens are padded to the longest of them."""
KEPT_WEIGHTS = 1 << 22
"""Attention weights that are kept for the backward pass, in one group of one layer; beyond, they are made again."""
_Rotation = tuple[torch.Tensor, torch.Tensor]
_Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    """One layer, for rows of tokens [n, H].

    project: rows and rotation → queries, keys, values [n, heads, D]; finish: rows, what they attended to
    [n, heads D] → the layer's output; scale: of the scores.
    """

    project: Callable[[torch.Tensor, _Rotation | None], _Heads]
    finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    scale: float


@dataclass(frozen=True)
class _Trunk:
    """A model taken apart: begin turns embeddings and positions into rows, end turns rows into logits."""

    begin: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    layers: list[_Layer]
    end: _Map
    rotation: Callable[[torch.Tensor, torch.Tensor], _Rotation] | None = None
    slopes: torch.Tensor | None = None


def give_up(base: BaseModel) -> None:
    """From now on the model's own forward pass is used."""
    _GIVEN_UP.add(base)


def is_used(base: BaseModel) -> bool:
    """Whether packed rows of this model go through our own forward pass."""
    return base not in _GIVEN_UP and _trunk_of(base) is not None


def packed_logits(base: BaseModel, prompts: torch.Tensor, lines: Plan) -> torch.Tensor | None:
    """Logits where a token is predicted, [N, V]; None where the model's own forward pass has to give them.

    prompts: [K, P, H] float32, differentiable; lines: a packed plan.
    """
    trunk = None if base in _GIVEN_UP else _trunk_of(base)
    if trunk is None or (lines.keep & (lines.text < 0)).any():      # a label without text hangs on the prompt
        return None
    tokens = _tokens(lines, prompts.shape[1], base, trunk.slopes)
    words = base.module.get_input_embeddings()(tokens.ids)
    lead = prompts.index_select(0, tokens.leading).flatten(0, 1).to(words.dtype)
    x = trunk.begin(words.index_copy(0, tokens.prompt_rows, lead), tokens.positions)
    rotation = trunk.rotation(x, tokens.positions) if trunk.rotation else None
    for layer in trunk.layers[:-1]:
        x = layer.finish(x, _Attend.apply(*layer.project(x, rotation), tokens.all, layer.scale))
    last = trunk.layers[-1]
    q, k, v = last.project(x, rotation)
    attended = _Attend.apply(q.index_select(0, tokens.kept), k, v, tokens.predicting, last.scale)
    return trunk.end(last.finish(x.index_select(0, tokens.kept), attended))


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


# ---------------------------------------------------------- small operations


class _RmsNorm(torch.autograd.Function):
    """x / √(mean x² + ε) · weight, in float32, for a frozen weight (Zhang & Sennrich 2019)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = wide * scale
        ctx.save_for_backward(normed, scale, weight)
        return weight * normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        normed, scale, weight = ctx.saved_tensors
        g = (gradients[0] * weight).float()
        along = torch.linalg.vecdot(g, normed)[..., None] / -normed.shape[-1]
        return torch.addcmul(g, normed, along).mul_(scale).to(gradients[0].dtype), None, None


class _Rotate(torch.autograd.Function):
    """Rotary positions (Su et al. 2021) on [rows, heads, D], first half against second."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, sin, -1), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


# ---------------------------------------------------------------- families


class _Unknown(Exception):
    """A part that is not one we know."""


def _trunk_of(base: BaseModel) -> _Trunk | None:
    """The model taken apart, None where some part of it is unknown or anybody watches or trains it."""
    build = _FAMILIES.get(type(base.module).__name__)
    if build is None or base.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    if base.module.training or any(_is_watched(part) for part in base.module.modules()):
        return None
    if any(p.requires_grad or p.dtype != base.dtype or p.device != base.device for p in base.module.parameters()):
        return None
    try:
        return build(base.module)
    except (_Unknown, AttributeError):
        return None


def _is_watched(part: nn.Module) -> bool:
    """Whether something else happens when this part is called: hooks, or a forward of its own (device maps)."""
    found = vars(part)
    return bool(
        found["_forward_hooks"] or found["_forward_pre_hooks"] or found["_backward_hooks"]
        or found["_backward_pre_hooks"] or "forward" in found
    )


def _known(part: Any, *names: str) -> Any:
    """The part itself, where its class has one of the names."""
    if type(part).__name__ not in names:
        raise _Unknown
    return part


def _linear(part: Any) -> _Map:
    """x Wᵀ + b of exactly a linear layer, GPT-2's transposed kind included."""
    weight = part.weight if type(part) is nn.Linear else _known(part, "Conv1D").weight.t()
    return lambda x: F.linear(x, weight, part.bias)


def _norm(part: Any) -> _Map:
    if type(part) is nn.LayerNorm:
        return lambda x: F.layer_norm(x, part.normalized_shape, part.weight, part.bias, part.eps)
    _known(part, *(f"{family}RMSNorm" for family in _LLAMA_LIKE))
    return lambda x: _RmsNorm.apply(x, part.weight, part.variance_epsilon)


_LLAMA_LIKE = ("Llama", "Mistral", "Qwen2", "Qwen3")


def _llama(module: Any) -> _Trunk:
    body = _known(module.model, *(f"{family}Model" for family in _LLAMA_LIKE))
    rotary = _known(body.rotary_emb, *(f"{family}RotaryEmbedding" for family in _LLAMA_LIKE))
    norm, head = _norm(body.norm), _linear(module.lm_head)

    def rotation(x: torch.Tensor, positions: torch.Tensor) -> _Rotation:
        cos, sin = rotary(x, positions)
        return cos[0, :, None], sin[0, :, None]

    layers = [_llama_layer(block) for block in body.layers]
    return _Trunk(begin=lambda x, positions: x, layers=layers, end=lambda x: head(norm(x)), rotation=rotation)


def _llama_layer(block: Any) -> _Layer:
    _known(block, *(f"{family}DecoderLayer" for family in _LLAMA_LIKE))
    attention = _known(block.self_attn, *(f"{family}Attention" for family in _LLAMA_LIKE))
    mlp = _known(block.mlp, *(f"{family}MLP" for family in _LLAMA_LIKE))
    _known(mlp.act_fn, "SiLU", "SiLUActivation")
    before, between, width = _norm(block.input_layernorm), _norm(block.post_attention_layernorm), attention.head_dim
    q, k, v, out = (_linear(getattr(attention, f"{name}_proj")) for name in "qkvo")
    gate, up, down = (_linear(getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down"))
    of_head = [_norm(attention.q_norm), _norm(attention.k_norm)] if hasattr(attention, "q_norm") else None

    def project(x: torch.Tensor, rotation: _Rotation | None) -> _Heads:
        assert rotation is not None
        normed = before(x)
        queries, keys, values = (f(normed).view(len(x), -1, width) for f in (q, k, v))
        if of_head:
            queries, keys = of_head[0](queries), of_head[1](keys)
        return _Rotate.apply(queries, *rotation), _Rotate.apply(keys, *rotation), values

    def finish(x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + out(attended)
        normed = between(x)
        return x + down(F.silu(gate(normed)) * up(normed))

    return _Layer(project, finish, attention.scaling)


def _gpt2(module: Any) -> _Trunk:
    body = _known(module.transformer, "GPT2Model")
    places, norm, head = _known(body.wpe, "Embedding"), _norm(body.ln_f), _linear(module.lm_head)
    layers = [_gpt2_layer(block) for block in body.h]
    return _Trunk(begin=lambda x, positions: x + places(positions[0]), layers=layers, end=lambda x: head(norm(x)))


def _gpt2_layer(block: Any) -> _Layer:
    attention, mlp = _known(_known(block, "GPT2Block").attn, "GPT2Attention"), _known(block.mlp, "GPT2MLP")
    if hasattr(block, "crossattention") or attention.reorder_and_upcast_attn:
        raise _Unknown
    _known(mlp.act, "NewGELUActivation", "GELUTanh")
    qkv, out, up, down = (_linear(part) for part in (attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj))
    before, between, width = _norm(block.ln_1), _norm(block.ln_2), attention.head_dim

    def project(x: torch.Tensor, rotation: _Rotation | None) -> _Heads:
        q, k, v = qkv(before(x)).view(len(x), 3, -1, width).unbind(1)
        return q, k, v

    return _Layer(project, _gelu_finish(out, between, up, down), attention.scaling)


def _bloom(module: Any) -> _Trunk:
    body = _known(module.transformer, "BloomModel")
    first, norm, head = _norm(body.word_embeddings_layernorm), _norm(body.ln_f), _linear(module.lm_head)
    layers, slopes = [_bloom_layer(block) for block in body.h], _slopes(body.num_heads, module.lm_head.weight.device)
    return _Trunk(begin=lambda x, positions: first(x), layers=layers, end=lambda x: head(norm(x)), slopes=slopes)


def _bloom_layer(block: Any) -> _Layer:
    attention = _known(_known(block, "BloomBlock").self_attention, "BloomAttention")
    mlp = _known(block.mlp, "BloomMLP")
    if block.apply_residual_connection_post_layernorm or (attention.pretraining_tp > 1 and attention.slow_but_exact):
        raise _Unknown
    _known(mlp.gelu_impl, "BloomGelu")
    qkv, out = _linear(attention.query_key_value), _linear(attention.dense)
    up, down = _linear(mlp.dense_h_to_4h), _linear(mlp.dense_4h_to_h)
    before, between, width = _norm(block.input_layernorm), _norm(block.post_attention_layernorm), attention.head_dim

    def project(x: torch.Tensor, rotation: _Rotation | None) -> _Heads:
        q, k, v = qkv(before(x)).view(len(x), -1, 3, width).unbind(2)
        return q, k, v

    return _Layer(project, _gelu_finish(out, between, up, down), attention.inv_norm_factor)


def _gelu_finish(out: _Map, norm: _Map, up: _Map, down: _Map) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def finish(x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + out(attended)
        return x + down(F.gelu(up(norm(x)), approximate="tanh"))

    return finish


def _slopes(heads: int, device: torch.device) -> torch.Tensor:
    """ALiBi's slope of every head, for any number of heads (Press et al. 2021)."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    rest = [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]
    return torch.tensor(first + rest, device=device)


_FAMILIES: dict[str, Callable[[Any], _Trunk]] = {
    **{f"{family}ForCausalLM": _llama for family in _LLAMA_LIKE}, "GPT2LMHeadModel": _gpt2, "BloomForCausalLM": _bloom,
}
