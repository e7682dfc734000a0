"""What a prompt makes the model say: faithful by construction, since it is read off the model's own output.

Axis letters: N rows, P virtual tokens, H embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.forward import forward
from softprompt_core.inspection.vocabulary import Vocabulary
from softprompt_core.models import BaseModel
from softprompt_core.records import FloatArray, Neighbour

ROWS = 64
CONTINUED_TOKENS = 40


@dataclass(frozen=True)
class Signature:
    """Words that the prompt makes likelier and less likely where the answer begins; score: mean Δ log p, in nats."""

    raised: list[Neighbour]
    lowered: list[Neighbour]


def signature_words(effect: Effect, prompt: FloatArray, vocabulary: Vocabulary, *, top: int = 10) -> Signature:
    """Mean over rows of log p(word) after [prompt | text] less that after the text alone; prompt: [P, H].

    Only words whose probability reaches 1e-5 with or without the prompt count: in the tail the difference is large
    and means nothing.
    """
    lead = torch.from_numpy(prompt)
    after, alone = _answer_log_p(effect, lead), _answer_log_p(effect, lead[:0])
    likely = np.logaddexp.reduce(np.stack([after, alone]), axis=0).max(axis=0) > np.log(1e-5)
    difference = (after - alone).mean(0)
    allowed = np.flatnonzero(vocabulary.is_listed[:len(difference)] & likely[:len(vocabulary.is_listed)])
    order = allowed[np.argsort(-difference[allowed], kind="stable")]

    def listing(ids: Sequence[int]) -> list[Neighbour]:
        return [Neighbour(int(i), vocabulary.texts[i], float(difference[i])) for i in ids]

    return Signature(
        listing([i for i in order[:top] if difference[i] > 0]),
        listing([i for i in order[::-1][:top] if difference[i] < 0]),
    )


def _answer_log_p(effect: Effect, lead: torch.Tensor) -> np.ndarray:
    """log p of every word where the label begins, [N, V] float32."""
    found = []
    examples = effect.examples[:ROWS]
    for start in range(0, len(examples), 8):
        effect.check_stop()
        texts = [e.context for e in examples[start:start + 8]]
        with torch.inference_mode():
            logits = forward(effect.base, lead, texts).logits
        for row, text in enumerate(texts):
            found.append(torch.log_softmax(logits[row, len(lead) + len(text) - 1].float(), dim=-1).cpu().numpy())
    return np.stack(found)


def expected_words(
    base: BaseModel, prompt: FloatArray, vocabulary: Vocabulary, *, top: int = 5
) -> list[list[Neighbour]]:
    """Per virtual token the words that the model expects after it, with log p; prompt: [P, H].

    The logit lens at the last layer: what the prompt reads like to the model that reads it.
    """
    with torch.inference_mode():
        logits = forward(base, torch.from_numpy(prompt), [[_any_id(base)]]).logits[0, :len(prompt)].float()
    log_p = torch.log_softmax(logits, dim=-1).cpu().numpy()
    log_p[:, np.flatnonzero(~vocabulary.is_listed[:log_p.shape[1]])] = -np.inf
    return [
        [Neighbour(int(i), vocabulary.texts[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in log_p
    ]


def continued_text(base: BaseModel, prompt: FloatArray, *, tokens: int = CONTINUED_TOKENS) -> str:
    """What the model writes after the prompt alone, the likeliest word each time; prompt: [P, H]."""
    lead = torch.from_numpy(prompt)[None].to(base.device, base.module.get_input_embeddings().weight.dtype)
    return continue_from(base, lead, tokens=tokens)


def continue_from(base: BaseModel, lead: torch.Tensor, *, tokens: int) -> str:
    """What the model writes after these vectors [1, T, H], greedily."""
    end = base.tokenizer.eos_token_id
    with torch.inference_mode():
        ids = base.module.generate(
            inputs_embeds=lead, attention_mask=torch.ones(lead.shape[:2], dtype=torch.long, device=lead.device),
            max_new_tokens=tokens, do_sample=False, pad_token_id=end, repetition_penalty=1.0,
        )
    return str(base.tokenizer.decode(ids[0], skip_special_tokens=True)).strip()


def _any_id(base: BaseModel) -> int:
    return int(base.tokenizer.eos_token_id or 0)
