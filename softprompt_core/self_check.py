"""Which layout a model bears: found out on the first batch, against plain concatenation.

Architectures differ in what they make of a mask, of a cache, of padding. Nothing here knows them by name: a layout is
taken when its loss and prompt gradient equal plain concatenation's, and whatever was given up for another is said.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from softprompt_core import encoder_decoder, trunk
from softprompt_core.errors import UserError
from softprompt_core.layouts import Prefix, Prompts, batch_losses, prompt_length
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName, Row

TIMED_STEPS = 3
"""Steps that each layout runs on a GPU before the faster is taken."""
CHECKED_TOKENS = 2_048
"""Longest row that a self-check runs for the sake of an attention window."""
_Answer = tuple[torch.Tensor, torch.Tensor]
"""(losses [K], gradient in the prompts or prefixes, or of the weights where those learn)."""


@dataclass(frozen=True)
class Choice:
    """The layout for a model, and why; `is_fallback` where a faster one had to be given up.

    scoring: the layout to score many continuations of a text in: packed wherever that is equal, since there alone
    they share their text.
    """

    name: LayoutName
    reason: str
    is_fallback: bool
    scoring: LayoutName


def choose_layout(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], *, longest_tokens: int,
    peft_positions: bool = False,
) -> Choice:
    """The fastest layout whose loss and prompt gradient equal plain concatenation's on this batch.

    Packed comes first, then cached; on a GPU, where padding costs little, the faster of those that are equal is
    taken. `longest_tokens` is the longest line that can occur, prompt included: where it passes a sliding window
    the packed mask would lift the window. A prefix has one layout only, checked against its rows one at a time.
    With `peft_positions` the layout is PEFT's, whose numbers depend on padding; nothing is compared.

    Raises UserError for a model that is not causal or gives a prompt no gradient, and for PEFT's layout where
    it is not to be had.
    """
    if peft_positions and (base.is_encoder_decoder or isinstance(prompts, Prefix)):
        raise UserError("PEFT positions: only soft prompts on causal models have them. Turn them off.")
    if base.is_encoder_decoder:
        return _choice_for_encoder_decoder(base, prompts, batches)
    if isinstance(prompts, Prefix):
        return _choice_for_prefix(base, prompts, batches)
    _require_causal(base, batches[0][0])
    if peft_positions:
        return Choice("peft", "as asked, padded and counted as PEFT does", False, "peft")
    equal, refused = _tried(base, prompts, batches, longest_tokens)
    if not equal:
        return Choice("concatenated", "; ".join(refused), True, "concatenated")
    fastest = min(equal, key=lambda name: (equal[name].seconds or 0.0))
    reason = f"equal to plain concatenation within {equal[fastest].difference:.1e} on the first batch"
    if fastest == "packed" and trunk.is_used(base):
        reason += ", by our own forward pass"
    timed = [f"{name} {1000 * found.seconds:.0f} ms a step" for name, found in equal.items() if found.seconds]
    reasons = [reason, *([", ".join(timed)] if timed else []), *refused]
    return Choice(fastest, "; ".join(reasons), bool(refused), "packed" if "packed" in equal else fastest)


@dataclass(frozen=True)
class _Found:
    """How far a layout is from plain concatenation, and where layouts are raced, the seconds of a step."""

    difference: float
    seconds: float | None


def _tried(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], longest_tokens: int
) -> tuple[dict[LayoutName, _Found], list[str]]:
    """(the fast layouts that are equal, quickest first as far as is known; why others were given up)."""
    if _has_windows(base, longest_tokens):
        batches = [[*batches[0], _long_row(batches[0][0], longest_tokens, prompt_length(prompts))], *batches[1:]]
    expected = _expected(base, prompts, batches)
    equal: dict[LayoutName, _Found] = {}
    refused: list[str] = []
    names: tuple[LayoutName, ...] = ("packed", "cached")
    for name in names:
        reason, difference = _unfit(base, name, longest_tokens), 0.0
        if reason is None:
            reason, difference = _checked(base, prompts, batches, name, expected)
            if reason is not None and name == "packed" and trunk.is_used(base):
                refused.append(f"our own forward pass is not used: {reason}")
                trunk.give_up(base)
                reason, difference = _checked(base, prompts, batches, name, expected)
        if reason is not None:
            refused.append(reason)
            continue
        equal[name] = _Found(difference, _seconds(base, prompts, batches, name) if _are_raced(base) else None)
        if not _are_raced(base):
            break
    return equal, refused


def _require_causal(base: BaseModel, row: Row) -> None:
    """Raises UserError unless a token's logits depend on nothing after it, and embeddings mean the same as ids.

    Some models that transformers lists as causal see both ways (XLNet, BERT without `is_decoder`): given a label to
    predict, they would read it.
    """
    ids = torch.tensor([[*row.context, *row.continuations[0]]], device=base.device)
    with torch.no_grad():
        whole = base.module(input_ids=ids).logits[0, :-1].float()
        begun = base.module(inputs_embeds=base.module.get_input_embeddings()(ids[:, :-1])).logits[0].float()
    are_numbers = bool(torch.isfinite(whole).all())         # where they are none, training says so itself
    if are_numbers and not _relative(begun, whole) <= _ceiling(base):
        raise UserError(
            f"Model {base.name!r} is no causal language model that a prompt can be put before: what it predicts "
            "changes with later tokens, or when it is given vectors in place of tokens. Choose another model."
        )


def _expected(base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]]) -> _Answer:
    """Loss and prompt gradient of plain concatenation. Raises UserError where the model gives no gradient."""
    try:
        return _loss_and_gradient(base, prompts, batches, "concatenated")
    except RuntimeError as error:
        if "grad" not in str(error):        # "does not require grad", "needed for gradient computation"
            raise
        raise UserError(
            f"Model {base.name!r} gives a soft prompt no gradient ({_said(error)}). Choose another model."
        ) from error


def _tolerance(base: BaseModel) -> float:
    """How far layouts may be apart, relative, without being looked at more closely: rounding of the weights' dtype."""
    return {torch.float64: 1e-9, torch.float32: 1e-5}.get(base.dtype, 1e-2)


def _ceiling(base: BaseModel) -> float:
    """How far they may be apart at most, however much a deep model rounds."""
    return {torch.float64: 1e-8, torch.float32: 1e-4}.get(base.dtype, 1e-1)


def _has_windows(base: BaseModel, longest_tokens: int) -> bool:
    return base.is_local_by_place or (base.window is not None and longest_tokens > base.window)


def _long_row(row: Row, longest_tokens: int, length: int) -> Row:
    """A row as long as any can be, which the first batch need not hold; its text is repeated."""
    tokens = min(longest_tokens, CHECKED_TOKENS) - length - len(row.continuations[0])
    return Row((list(row.context) * (1 + tokens // len(row.context)))[:max(1, tokens)], row.continuations[:1])


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _unfit(base: BaseModel, layout: LayoutName, longest_tokens: int) -> str | None:
    """Why the layout cannot be right, whatever the first batch says; None where it can."""
    if layout == "packed" and base.is_local_by_place:
        return "some layers see only the last places of a line, which packing would fill"
    if layout == "packed" and _has_windows(base, longest_tokens):
        return f"rows of up to {longest_tokens} tokens pass the model's attention window of {base.window}"
    if layout == "cached" and longest_tokens > CHECKED_TOKENS and _has_windows(base, longest_tokens):
        return f"rows of up to {longest_tokens} tokens are too long to check a cache with"
    if layout == "cached" and "past_key_values" not in base.forward_arguments:
        return "this architecture keeps no keys and values that a text could be run after"
    return None


def _checked(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], layout: LayoutName,
    expected: _Answer,
) -> tuple[str | None, float]:
    """(why the layout is refused or None, how far its loss or prompt gradient is from the expected).

    Deep models round more, above all in bfloat16: 1 to 3 % of a gradient. So beyond the tolerance a layout may be
    three times as far from plain concatenation as that is from itself with the same rows one at a time.
    """
    try:
        found = _loss_and_gradient(base, prompts, batches, layout)
    except torch.OutOfMemoryError:
        return f"the {layout} form does not fit in memory", 0.0
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        return f"this architecture refuses the {layout} form ({_said(error)})", 0.0
    difference, tolerance = _difference(found, expected), _tolerance(base)
    if tolerance < difference <= _ceiling(base):
        alone = _one_at_a_time(base, prompts, batches, "concatenated")
        tolerance = max(tolerance, 3 * _difference(alone, expected))
    if difference <= min(tolerance, _ceiling(base)):
        return None, difference
    return f"{layout} rows differ from plain concatenation by {difference:.1e}, more than {tolerance:.0e}", difference


def _are_raced(base: BaseModel) -> bool:
    """Whether the faster layout is found by trying; on a CPU it is the one with fewer tokens."""
    return base.device.type == "cuda"


def _seconds(base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]], layout: LayoutName) -> float:
    """The quickest of a few steps of training, with one label a text, forwards and backwards."""
    taken = []
    batches = [[Row(row.context, row.continuations[:1]) for row in rows] for rows in batches]
    for _ in range(TIMED_STEPS):
        torch.cuda.synchronize(base.device)
        began = time.perf_counter()
        _loss_and_gradient(base, prompts, batches, layout)
        torch.cuda.synchronize(base.device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _choice_for_encoder_decoder(base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]]) -> Choice:
    """The layout encoder_decoder, with a warning where rows together do not give what each gives alone.

    Raises UserError for prefixes.
    """
    if isinstance(prompts, Prefix):
        raise UserError(
            f"Model {base.name!r} is an encoder–decoder, which cannot be run after a prefix here. "
            "Choose the method prompt."
        )
    difference = encoder_decoder.difference_from_alone(base, prompts, batches)
    # wide: T5 does not scale its attention, so rounding alone made 8e-5 of t5-small's shape (3e-2 in bf16); padding
    # that is seen makes tenths
    is_equal = difference <= (1e-3 if base.dtype == torch.float32 else 1e-1)
    said = f"the prompt before the encoder's text; rows together differ from rows alone by {difference:.1e}"
    said = said if is_equal else f"{said}: this model sees padding"
    return Choice("encoder_decoder", said, not is_equal, "encoder_decoder")


def _choice_for_prefix(base: BaseModel, prefix: Prefix, batches: Sequence[Sequence[Row]]) -> Choice:
    """The layout cached, once rows together have given what each gives alone, unpadded.

    Raises UserError where the model cannot be run after a prefix.
    """
    reason = _unfit(base, "cached", 0)
    if reason is None:
        try:
            found = _loss_and_gradient(base, prefix, batches, "cached")
            alone = _one_at_a_time(base, prefix, batches, "cached")
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
            reason = _said(error)
        else:
            difference, is_seen = _difference(found, alone), bool(found[1].abs().sum() > 0)
            if is_seen and difference <= _ceiling(base):
                said = f"a prefix has no other; rows together equal rows alone within {difference:.1e}"
                return Choice("cached", said, False, "cached")
            reason = f"rows together differ from rows alone by {difference:.1e}" if is_seen else "it goes unseen"
    raise UserError(
        f"Model {base.name!r} cannot be run after a prefix ({reason}). Choose the method prompt, or another model."
    )


def _one_at_a_time(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], layout: LayoutName
) -> _Answer:
    """Losses and gradient of passes that hold one continuation each, and no padding."""
    losses, gradients = [], []
    for k, rows in enumerate(batches):
        alone = [(Row(row.context, (c,)), len(c)) for row in rows for c in row.continuations]
        own = Prefix(prompts.keys_values[k:k + 1]) if isinstance(prompts, Prefix) else prompts[k:k + 1]
        tokens = sum(count for _, count in alone)
        total: _Answer | None = None
        for row, count in alone:
            part = [value * count / tokens for value in _loss_and_gradient(base, own, [[row]], layout)]
            total = (part[0], part[1]) if total is None else (total[0] + part[0], total[1] + part[1])
        assert total is not None
        losses.append(total[0])
        gradients.append(total[1])
    return torch.cat(losses), torch.cat(gradients)


def _loss_and_gradient(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], layout: LayoutName
) -> _Answer:
    """(losses [K], gradients [K, …]): in the prompts or prefixes, or of weights that learn, [1, all of them]."""
    given = prompts.keys_values if isinstance(prompts, Prefix) else prompts
    leaf = given.detach().clone().requires_grad_(True)
    losses, _ = batch_losses(base, Prefix(leaf) if isinstance(prompts, Prefix) else leaf, batches, layout=layout)
    learned = [parameter for parameter in base.module.parameters() if parameter.requires_grad]
    if not learned:
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient
    assert len(losses) == 1, "a model that learns serves one run"
    found = torch.autograd.grad(losses.sum(), learned, allow_unused=True, materialize_grads=True)
    return losses.detach(), torch.cat([gradient.flatten().float() for gradient in found])[None]


def _difference(found: _Answer, expected: _Answer) -> float:
    """The larger of the relative distances of losses and gradients."""
    return max(_relative(a, b) for a, b in zip(found, expected, strict=True))


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))
