"""The frozen model's answer to a planned batch: scores of continuations, and losses.

The layouts are told in `plans`; which of them a model bears is found out in `self_check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softprompt_core import encoder_decoder, trunk
from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName, Plan, Row, plan


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
    """Sum of log p over each continuation's tokens, [C] float32; differentiable in the prompts [K, P, H] float32.

    A model in float64 gives float64.
    """
    if lines.layout == "encoder_decoder":
        assert not isinstance(prompts, Prefix), "prefixes are refused when the layout is chosen"
        return encoder_decoder.continuation_scores(base, prompts, lines)
    logits = _logits(base, prompts, lines)
    source, target, owner = (
        torch.from_numpy(a).to(logits.device) for a in (lines.source, lines.target, lines.owner)
    )
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    picked = torch.log_softmax(precise, dim=-1)[source, target]
    return picked.new_zeros(lines.continuations).index_add(0, owner, picked)


def batch_losses(
    base: BaseModel, prompts: Prompts, batches: Sequence[Sequence[Row]], *, layout: LayoutName,
    padded_to: int | None = None,
) -> tuple[torch.Tensor, Plan]:
    """(losses [K], the plan): per prompt −log p summed over its label tokens, divided by their number.

    padded_to: only for the layout peft, see `plan`.
    """
    layout = layout_for(base, layout)
    lines = plan(batches, prompt_length=prompt_length(prompts), layout=layout, padded_to=padded_to)
    scores = continuation_scores(base, prompts, lines)
    group = torch.tensor([k for k, rows in enumerate(batches) for row in rows for _ in row.continuations])
    counts = torch.tensor(
        [sum(len(c) for row in rows for c in row.continuations) for rows in batches], device=scores.device
    )
    total = scores.new_zeros(len(batches)).index_add(0, group.to(scores.device), scores)
    return -total / counts, lines


def layout_for(base: BaseModel, layout: LayoutName) -> LayoutName:
    """The layout, or for an encoder–decoder the one it has; the others are for causal models."""
    return "encoder_decoder" if base.is_encoder_decoder else layout


def _logits(base: BaseModel, prompts: Prompts, lines: Plan) -> torch.Tensor:
    """Logits where a token is predicted, [N, V]."""
    length = prompt_length(prompts)
    if length and lines.layout == "cached":
        return _cached_logits(base, prompts, lines)
    assert not isinstance(prompts, Prefix), "prefixes are always planned in the layout cached"
    if lines.is_masked and (logits := trunk.packed_logits(base, prompts, lines)) is not None:
        return logits
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

    def of_lines(states: torch.Tensor | None) -> torch.Tensor | None:
        if states is None:
            return None
        if len(states) == 1:        # expanding copies nothing, and its gradient is a plain sum
            return states.expand(len(prompt_of), *states.shape[1:])
        return states[prompt_of]

    given = _given(base, prompts) if isinstance(prompts, Prefix) else _computed(base, prompts)
    past = [(of_lines(keys), of_lines(values)) for keys, values in given]
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
    lead = prompts.to(base.dtype).clone()       # CTRL scales what it is given in place
    arguments: dict[str, Any] = {"inputs_embeds": lead, "past_key_values": cache, "use_cache": True}
    if "logits_to_keep" in base.forward_arguments:
        arguments["logits_to_keep"] = 1
    base.module(**arguments)
    return [(keys, values) for keys, values, *_ in cache]


def prefix_left_by(base: BaseModel, prompts: torch.Tensor) -> Prefix:
    """The prefixes that give a text the same answer as these prompts [K, P, H] before it; without gradients.

    Raises UserError where the model keeps no keys and values, or not the same of them in every layer.
    """
    found: _Past = []
    if "past_key_values" in base.forward_arguments:
        with torch.no_grad():
            found = _computed(base, prompts)
    states = [state for layer in found for state in layer if state is not None]
    if not states or len(states) < 2 * len(found) or len({state.shape for state in states}) != 1:
        raise UserError(
            f"Model {base.name!r} keeps no keys and values of one shape in every layer, which a prefix takes the "
            "place of. Choose the method prompt, or another model."
        )
    return Prefix(torch.stack(states, dim=1).unflatten(1, (len(found), 2)).float())


def _mask(lines: Plan, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask, [R, 1, T, T]: a token sees the prompt, its own text and its own continuation."""
    text, branch = torch.from_numpy(lines.text).to(device), torch.from_numpy(lines.branch).to(device)
    ours, theirs = text[:, :, None], text[:, None, :]
    shares_branch = (branch[:, None, :] == -1) | (branch[:, :, None] == branch[:, None, :])
    sees = (theirs == -1) | ((ours == theirs) & shares_branch)
    sees = sees.tril()
    blocked = torch.finfo(dtype).min
    return torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill(~sees, blocked)[:, None]
