"""The frozen model's answer to a planned batch, and which layout it is to be planned in.

The four layouts are told in `plans`. Whichever is taken, a row's loss is that of plain concatenation: a self-check
on the first batch decides which fast layout a model bears, and whatever it cannot bear is said, never trained with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName, Plan, Row, plan

TIMED_STEPS = 3
"""Steps that each layout runs on a GPU before the faster is taken."""


@dataclass(frozen=True)
class Prefix:
    """K prefixes, which stand before the text in every layer as keys and values instead of as embeddings.

    keys_values: [K, L, 2, heads, P, D] float32, differentiable; accepted wherever `prompts` are, and always run in
    the layout cached. Prefix tuning (Li & Liang 2021) trains them; PEFT's encoder gives them as [K, P, 2 L heads D].
    """

    keys_values: torch.Tensor

    @property
    def length(self) -> int:
        """P."""
        return self.keys_values.shape[4]


Prompts = torch.Tensor | Prefix
"""What is put before the texts: prompts [K, P, H] float32, or prefixes."""
_Past = list[tuple[torch.Tensor | None, torch.Tensor | None]]
"""Keys and values a layer, each [K, heads, P, D]; None where a layer borrows those of another."""


def prompt_length(prompts: Prompts) -> int:
    """P, the places that each prompt or prefix takes."""
    return prompts.length if isinstance(prompts, Prefix) else prompts.shape[1]


def continuation_scores(base: BaseModel, prompts: Prompts, lines: Plan) -> torch.Tensor:
    """Sum of log p over each continuation's tokens, [C] float32; differentiable in the prompts [K, P, H] float32."""
    logits = _logits(base, prompts, lines)
    source, target, owner = (
        torch.from_numpy(a).to(logits.device) for a in (lines.source, lines.target, lines.owner)
    )
    picked = torch.log_softmax(logits.float(), dim=-1)[source, target]
    return torch.zeros(lines.continuations, device=picked.device).index_add(0, owner, picked)


def batch_losses(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], *, layout: LayoutName,
    padded_to: int | None = None,
) -> tuple[torch.Tensor, Plan]:
    """(losses [K], the plan): per prompt −log p summed over its label tokens, divided by their number.

    padded_to: only for the layout peft, see `plan`.
    """
    lines = plan(batches, prompt_length=prompt_length(prompts), layout=layout, padded_to=padded_to)
    scores = continuation_scores(base, prompts, lines)
    group = torch.tensor([k for k, rows in enumerate(batches) for row in rows for _ in row.continuations])
    counts = torch.tensor(
        [sum(len(c) for row in rows for c in row.continuations) for rows in batches], device=scores.device
    )
    total = torch.zeros(len(batches), device=scores.device).index_add(0, group.to(scores.device), scores)
    return -total / counts, lines


def _logits(base: BaseModel, prompts: Prompts, lines: Plan) -> torch.Tensor:
    """Logits where a token is predicted, [N, V]."""
    length = prompt_length(prompts)
    if length and lines.layout == "cached":
        return _cached_logits(base, prompts, lines)
    assert not isinstance(prompts, Prefix), "prefixes are always planned in the layout cached"
    device = base.device
    embed = base.module.get_input_embeddings()
    words = embed(torch.from_numpy(lines.ids).to(device))
    lead = prompts[torch.from_numpy(lines.prompt_of).to(device)].to(words.dtype)
    arguments: dict[str, Any] = {"inputs_embeds": torch.cat([lead, words[:, length:]], dim=1)}
    if "use_cache" in base.forward_arguments:
        arguments["use_cache"] = False
    if lines.is_masked:
        arguments["attention_mask"] = _mask(lines, device, words.dtype)
        if "position_ids" in base.forward_arguments:
            arguments["position_ids"] = torch.from_numpy(lines.positions).to(device)
    if lines.layout == "peft":      # which leaves the positions to the model
        arguments["attention_mask"] = torch.from_numpy((lines.text != -2).astype("int64")).to(device)
    return _predicted(base, arguments, torch.from_numpy(lines.keep).to(device))


def _predicted(base: BaseModel, arguments: dict[str, Any], keep: torch.Tensor) -> torch.Tensor:
    """The model's logits at the places to keep [R, T], as [N, V]."""
    if "logits_to_keep" not in base.forward_arguments:
        return base.module(**arguments).logits[keep]
    logits = base.module(**arguments, logits_to_keep=keep).logits
    return logits if logits.ndim == 2 else logits[keep]


def _cached_logits(base: BaseModel, prompts: Prompts, lines: Plan) -> torch.Tensor:
    """Logits where a token is predicted, [N, V], of texts run after the keys and values of their prompts."""
    from transformers import DynamicCache

    length, device = prompt_length(prompts), base.device
    prompt_of = torch.from_numpy(lines.prompt_of).to(device)
    past = [
        tuple(None if states is None else states[prompt_of] for states in layer)
        for layer in (_given(base, prompts) if isinstance(prompts, Prefix) else _computed(base, prompts))
    ]
    ids = torch.from_numpy(lines.ids[:, length:]).to(device)
    arguments: dict[str, Any] = {
        "inputs_embeds": base.module.get_input_embeddings()(ids), "past_key_values": DynamicCache(past),
        "use_cache": True,
    }
    if "position_ids" in base.forward_arguments:
        arguments["position_ids"] = torch.from_numpy(lines.positions[:, length:]).to(device)
    return _predicted(base, arguments, torch.from_numpy(lines.keep[:, length:]).to(device))


def _given(base: BaseModel, prefix: Prefix) -> _Past:
    """The keys and values of the prefixes, layer by layer."""
    layers = prefix.keys_values.to(base.device, base.dtype).unbind(1)
    return [(layer[:, 0], layer[:, 1]) for layer in layers]


def _computed(base: BaseModel, prompts: torch.Tensor) -> _Past:
    """What the prompts [K, P, H] leave behind in every layer for the texts to see."""
    from transformers import DynamicCache

    cache = DynamicCache()      # without the model's settings: a sliding window must not drop what a mask will hide
    arguments: dict[str, Any] = {"inputs_embeds": prompts.to(base.dtype), "past_key_values": cache, "use_cache": True}
    if "logits_to_keep" in base.forward_arguments:
        arguments["logits_to_keep"] = 1
    base.module(**arguments)
    return [(keys, values) for keys, values, *_ in cache]


def _mask(lines: Plan, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask, [R, 1, T, T]: a token sees the prompt, its own text and its own continuation."""
    text, branch = torch.from_numpy(lines.text).to(device), torch.from_numpy(lines.branch).to(device)
    ours, theirs = text[:, :, None], text[:, None, :]
    shares_branch = (branch[:, None, :] == -1) | (branch[:, :, None] == branch[:, None, :])
    sees = (theirs == -1) | ((ours == theirs) & shares_branch)
    sees = sees.tril()
    blocked = torch.finfo(dtype).min
    return torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill(~sees, blocked)[:, None]


@dataclass(frozen=True)
class Choice:
    """The layout for a model, and why; `is_fallback` where a faster one had to be given up."""

    name: LayoutName
    reason: str
    is_fallback: bool


def choose_layout(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], *, longest_tokens: int
) -> Choice:
    """The fastest layout whose loss and prompt gradient equal plain concatenation's on this batch.

    Packed comes first, then cached; on a GPU, where padding costs little, the faster of those that are equal is
    taken. `longest_tokens` is the longest line that can occur, prompt included: where it passes a sliding window
    the packed mask would lift the window. A prefix has one layout only, checked against its rows one at a time.
    """
    if isinstance(prompts, Prefix):
        return _choice_for_prefix(base, prompts, batches)
    expected = _loss_and_gradient(base, prompts, batches, "concatenated")
    refused: list[str] = []
    equal: list[tuple[LayoutName, float]] = []
    names: tuple[LayoutName, ...] = ("packed", "cached")
    for name in names:
        reason, difference = _unfit(base, name, longest_tokens), 0.0
        if reason is None:
            reason, difference = _checked(base, prompts, batches, name, expected)
        if reason is not None:
            refused.append(reason)
            continue
        equal.append((name, difference))
        if base.device.type != "cuda":
            break
    because = "; ".join(refused)
    if not equal:
        return Choice("concatenated", because, True)
    fastest, difference = equal[0]
    if len(equal) > 1:
        seconds = {name: _seconds(base, prompts, batches, name) for name, _ in equal}
        fastest, difference = min(equal, key=lambda found: seconds[found[0]])
        because = ", ".join(f"{name} {1000 * taken:.0f} ms a step" for name, taken in seconds.items())
    reason = f"equal to plain concatenation within {difference:.1e} on the first batch"
    return Choice(fastest, f"{reason}; {because}" if because else reason, bool(refused))


def _unfit(base: BaseModel, layout: LayoutName, longest_tokens: int) -> str | None:
    """Why the layout cannot be right for rows that the first batch need not hold, None where it can."""
    if layout == "packed" and base.window is not None and longest_tokens > base.window:
        return f"rows of up to {longest_tokens} tokens pass the model's attention window of {base.window}"
    if layout == "packed" and base.is_local_by_place:
        return "some layers see only the last places of a line, which packing would fill"
    if layout == "cached" and "past_key_values" not in base.forward_arguments:
        return "this architecture keeps no keys and values that a text could be run after"
    return None


def _checked(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], layout: LayoutName,
    expected: tuple[torch.Tensor, torch.Tensor],
) -> tuple[str | None, float]:
    """(why the layout is refused or None, how far its loss or prompt gradient is from the expected)."""
    tolerance = 1e-5 if base.dtype == torch.float32 else 1e-2
    try:
        found = _loss_and_gradient(base, prompts, batches, layout)
    except torch.OutOfMemoryError:
        return f"the {layout} form does not fit in memory", 0.0
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        return f"this architecture refuses the {layout} form ({' '.join(str(error).split())[:120]})", 0.0
    difference = max(_relative(a, b) for a, b in zip(found, expected, strict=True))
    if difference <= tolerance:
        return None, difference
    return f"{layout} rows differ from plain concatenation by {difference:.1e}, more than {tolerance:.0e}", difference


def _seconds(base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], layout: LayoutName) -> float:
    """The quickest of a few steps, forwards and backwards."""
    taken = []
    for _ in range(TIMED_STEPS):
        torch.cuda.synchronize(base.device)
        began = time.perf_counter()
        _loss_and_gradient(base, prompts, batches, layout)
        torch.cuda.synchronize(base.device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _choice_for_prefix(base: BaseModel, prefix: Prefix, batches: Sequence[Sequence[Row]]) -> Choice:
    """The layout cached, once rows together have given what each gives alone, unpadded.

    Raises UserError where the model cannot be run after a prefix.
    """
    reason = _unfit(base, "cached", 0)
    if reason is None:
        try:
            found, alone = _loss_and_gradient(base, prefix, batches, "cached"), _one_at_a_time(base, prefix, batches)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:120]
        else:
            difference = max(_relative(a, b) for a, b in zip(found, alone, strict=True))
            is_seen = bool(found[1].abs().sum() > 0)
            if is_seen and difference <= (1e-5 if base.dtype == torch.float32 else 1e-2):
                said = f"a prefix has no other; rows together equal rows alone within {difference:.1e}"
                return Choice("cached", said, False)
            reason = f"rows together differ from rows alone by {difference:.1e}" if is_seen else "it goes unseen"
    raise UserError(
        f"Model {base.name!r} cannot be run after a prefix ({reason}). Choose the method prompt, or another model."
    )


def _one_at_a_time(
    base: BaseModel, prefix: Prefix, batches: Sequence[Sequence[Row]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(losses [K], gradient) as `_loss_and_gradient` gives them, of passes that hold one row each."""
    losses = torch.zeros(len(batches), device=base.device)
    gradient = torch.zeros_like(prefix.keys_values)
    for k, rows in enumerate(batches):
        alone = [(Row(row.context, (c,)), len(c)) for row in rows for c in row.continuations]
        tokens = sum(count for _, count in alone)
        own = Prefix(prefix.keys_values[k:k + 1])
        for row, count in alone:
            loss, part = _loss_and_gradient(base, own, [[row]], "cached")
            losses[k] += loss[0] * count / tokens
            gradient[k] += part[0] * count / tokens
    return losses, gradient


def _loss_and_gradient(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], layout: LayoutName
) -> tuple[torch.Tensor, torch.Tensor]:
    given = prompts.keys_values if isinstance(prompts, Prefix) else prompts
    leaf = given.detach().clone().requires_grad_(True)
    losses, _ = batch_losses(base, Prefix(leaf) if isinstance(prompts, Prefix) else leaf, batches, layout=layout)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))
