"""Soft prompts for encoder–decoder models: T5, BART and their families.

The encoder reads `[prompt | text]`; the decoder is given a label and predicts it, one token after the other. The
prompt is P rows, and all of them are trained (PEFT allocates 2 P for these models and trains the first P). Lines are
padded on the right and masked, so positions, where a model counts them, are contiguous.

What the decoder is given is the model's own affair: its `prepare_decoder_input_ids_from_labels` puts its start token
before the label and leaves the label's last token out (teacher forcing), as its pretraining and its `labels=` do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from softprompt_core.models import BaseModel
from softprompt_core.plans import Plan, Row, plan

IGNORED = -100
"""Stands for padding in targets, here as in transformers."""


def continuation_scores(base: BaseModel, prompts: torch.Tensor, lines: Plan) -> torch.Tensor:
    """Sum of log p over each continuation's tokens, [C] float32; prompts: [K, P, H] float32, differentiable.

    Each text goes through the encoder once, however many continuations it has.
    """
    states, mask = encode(base, prompts, lines)
    target, text_of = (torch.from_numpy(a).to(base.device) for a in _targets(lines))
    if len(text_of) != len(states):
        states, mask = states[text_of], mask[text_of]
    logits = _decode(base, states, mask, target)
    is_target = target != IGNORED
    picked = torch.log_softmax(logits[is_target].float(), dim=-1).gather(1, target[is_target][:, None])[:, 0]
    owner = is_target.nonzero()[:, 0]
    return torch.zeros(lines.continuations, device=picked.device).index_add(0, owner, picked)


def encode(base: BaseModel, prompts: torch.Tensor, lines: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the encoder makes of each line [R, P + T, H], where it is no padding [R, P + T])."""
    words = base.embed(torch.from_numpy(lines.ids).to(base.device))
    lead = prompts[torch.from_numpy(lines.prompt_of).to(base.device)].to(words.dtype)
    vectors = torch.cat([lead, words[:, prompts.shape[1]:]], dim=1)
    mask = torch.from_numpy((lines.text != -2).astype(np.int64)).to(base.device)
    return base.module.get_encoder()(inputs_embeds=vectors, attention_mask=mask).last_hidden_state, mask


def _decode(base: BaseModel, states: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Logits of every target [C, D] given those before it, [C, D, V]; padding comes last, so no target sees it."""
    from transformers.modeling_outputs import BaseModelOutput

    return base.module(
        encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
        decoder_input_ids=base.module.prepare_decoder_input_ids_from_labels(labels=target), use_cache=False,
    ).logits


def _targets(lines: Plan) -> tuple[np.ndarray, np.ndarray]:
    """(the continuations' tokens [C, D] with IGNORED after their ends, the line of each one's text [C])."""
    lengths = np.bincount(lines.owner, minlength=lines.continuations)
    is_there = np.arange(lengths.max())[None] < lengths[:, None]
    target = np.full(is_there.shape, IGNORED, np.int64)
    target[is_there] = lines.target     # which stand in the order of their owners
    text_of = np.zeros(lines.continuations, np.int64)
    text_of[lines.owner] = lines.source
    return target, text_of


def difference_from_alone(base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]]) -> float:
    """How far rows in one padded pass are from rows that go through alone, unpadded: scores and prompt gradient."""
    together = _scores_and_gradient(base, prompts, batches)
    scores, gradient = [], torch.zeros_like(prompts)
    for k, rows in enumerate(batches):
        for row in rows:
            found, part = _scores_and_gradient(base, prompts[k:k + 1], [[row]])
            scores.append(found)
            gradient[k] += part[0]
    alone = (torch.cat(scores), gradient)
    return max(
        float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(together, alone, strict=True)
    )


def _scores_and_gradient(
    base: BaseModel, prompts: torch.Tensor, batches: Sequence[Sequence[Row]]
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = prompts.detach().clone().requires_grad_(True)
    lines = plan(batches, prompt_length=prompts.shape[1], layout="encoder_decoder")
    scores = continuation_scores(base, leaf, lines)
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    return scores.detach(), gradient
