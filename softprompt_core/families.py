"""Frozen decoders taken apart, for the families most in use: the operations of each layer, on rows of tokens.

The weights stay the model's own. A model is recognised part by part: whatever is not exactly the part we know (an
adapter in a linear layer's place, another activation, hooks, a device map, weights that learn) leaves the
whole model to its own forward pass. The operations give activation gradients alone, for the weights are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine of every row's position, [n, 1, D]."""
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys, values, [n, heads, D]."""
_Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """One layer, for rows of tokens [n, H].

    project: rows and rotation → queries, keys, values [n, heads, D]; finish: rows, what they attended to
    [n, heads D] → the layer's output; scale: of the scores.
    """

    project: Callable[[torch.Tensor, Rotation | None], Heads]
    finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    scale: float


@dataclass(frozen=True)
class Decoder:
    """A model taken apart: begin turns embeddings and positions into rows, end turns rows into logits."""

    begin: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    layers: list[Layer]
    end: _Map
    rotation: Callable[[torch.Tensor, torch.Tensor], Rotation] | None = None
    slopes: torch.Tensor | None = None


class _Unknown(Exception):
    """A part that is not one we know."""


def take_apart(module: Any, *, dtype: torch.dtype, device: torch.device) -> Decoder | None:
    """The model's parts, None where one of them is unknown or anybody watches or trains it.

    dtype, device: where all of its weights must be.
    """
    build = _FAMILIES.get(type(module).__name__)
    if build is None or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    if module.training or any(_is_watched(part) for part in module.modules()):
        return None
    if any(p.requires_grad or p.dtype != dtype or p.device != device for p in module.parameters()):
        return None
    try:
        return build(module)
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


def _llama(module: Any) -> Decoder:
    body = _known(module.model, *(f"{family}Model" for family in _LLAMA_LIKE))
    rotary = _known(body.rotary_emb, *(f"{family}RotaryEmbedding" for family in _LLAMA_LIKE))
    norm, head = _norm(body.norm), _linear(module.lm_head)

    def rotation(x: torch.Tensor, positions: torch.Tensor) -> Rotation:
        cos, sin = rotary(x, positions)
        return cos[0, :, None], sin[0, :, None]

    layers = [_llama_layer(block) for block in body.layers]
    return Decoder(begin=lambda x, positions: x, layers=layers, end=lambda x: head(norm(x)), rotation=rotation)


def _llama_layer(block: Any) -> Layer:
    _known(block, *(f"{family}DecoderLayer" for family in _LLAMA_LIKE))
    attention = _known(block.self_attn, *(f"{family}Attention" for family in _LLAMA_LIKE))
    mlp = _known(block.mlp, *(f"{family}MLP" for family in _LLAMA_LIKE))
    _known(mlp.act_fn, "SiLU", "SiLUActivation")
    before, between, width = _norm(block.input_layernorm), _norm(block.post_attention_layernorm), attention.head_dim
    q, k, v, out = (_linear(getattr(attention, f"{name}_proj")) for name in "qkvo")
    gate, up, down = (_linear(getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down"))
    of_head = [_norm(attention.q_norm), _norm(attention.k_norm)] if hasattr(attention, "q_norm") else None

    def project(x: torch.Tensor, rotation: Rotation | None) -> Heads:
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

    return Layer(project, finish, attention.scaling)


def _gpt2(module: Any) -> Decoder:
    body = _known(module.transformer, "GPT2Model")
    places, norm, head = _known(body.wpe, "Embedding"), _norm(body.ln_f), _linear(module.lm_head)
    layers = [_gpt2_layer(block) for block in body.h]
    return Decoder(begin=lambda x, positions: x + places(positions[0]), layers=layers, end=lambda x: head(norm(x)))


def _gpt2_layer(block: Any) -> Layer:
    attention, mlp = _known(_known(block, "GPT2Block").attn, "GPT2Attention"), _known(block.mlp, "GPT2MLP")
    if hasattr(block, "crossattention") or attention.reorder_and_upcast_attn:
        raise _Unknown
    _known(mlp.act, "NewGELUActivation", "GELUTanh")
    qkv, out, up, down = (_linear(part) for part in (attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj))
    before, between, width = _norm(block.ln_1), _norm(block.ln_2), attention.head_dim

    def project(x: torch.Tensor, rotation: Rotation | None) -> Heads:
        q, k, v = qkv(before(x)).view(len(x), 3, -1, width).unbind(1)
        return q, k, v

    return Layer(project, _gelu_finish(out, between, up, down), attention.scaling)


def _bloom(module: Any) -> Decoder:
    body = _known(module.transformer, "BloomModel")
    first, norm, head = _norm(body.word_embeddings_layernorm), _norm(body.ln_f), _linear(module.lm_head)
    layers, slopes = [_bloom_layer(block) for block in body.h], _slopes(body.num_heads, module.lm_head.weight.device)
    return Decoder(begin=lambda x, positions: first(x), layers=layers, end=lambda x: head(norm(x)), slopes=slopes)


def _bloom_layer(block: Any) -> Layer:
    attention = _known(_known(block, "BloomBlock").self_attention, "BloomAttention")
    mlp = _known(block.mlp, "BloomMLP")
    if block.apply_residual_connection_post_layernorm or (attention.pretraining_tp > 1 and attention.slow_but_exact):
        raise _Unknown
    _known(mlp.gelu_impl, "BloomGelu")
    qkv, out = _linear(attention.query_key_value), _linear(attention.dense)
    up, down = _linear(mlp.dense_h_to_4h), _linear(mlp.dense_4h_to_h)
    before, between, width = _norm(block.input_layernorm), _norm(block.post_attention_layernorm), attention.head_dim

    def project(x: torch.Tensor, rotation: Rotation | None) -> Heads:
        q, k, v = qkv(before(x)).view(len(x), -1, 3, width).unbind(2)
        return q, k, v

    return Layer(project, _gelu_finish(out, between, up, down), attention.inv_norm_factor)


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


_FAMILIES: dict[str, Callable[[Any], Decoder]] = {
    **{f"{family}ForCausalLM": _llama for family in _LLAMA_LIKE}, "GPT2LMHeadModel": _gpt2, "BloomForCausalLM": _bloom,
}


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
    @once_differentiable
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
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, sin, -1), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out
