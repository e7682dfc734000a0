"""Plain forward passes for inspection: rows one beside another, right-padded, with any virtual token hidden.

Slower than the training layouts and simpler: what is read off here must not depend on how fast rows are packed.
Axis letters: N rows, T tokens of a row, P virtual tokens, H embedding width, V vocabulary.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from softprompt_core.errors import UserError
from softprompt_core.inspection.effect import Effect
from softprompt_core.models import BaseModel

PASS_TOKENS = 4_096

_eager_copies: WeakKeyDictionary[BaseModel, Any] = WeakKeyDictionary()
_lock = threading.Lock()


def forward(
    base: BaseModel,
    prompt: torch.Tensor,
    texts: Sequence[Sequence[int]],
    *,
    visible: Sequence[bool] | None = None,
    module: Any = None,
    with_attentions: bool = False,
) -> Any:
    """The model's output for [prompt | text] of every row; prompt: [P, H], differentiable.

    visible: [P], virtual tokens that nothing may look at are False; positions stay as they are. Rows are padded on
    the right: N × (P + T). `module` stands in for the base model's (`showing_attention`). Raises UserError for an
    encoder–decoder.
    """
    if base.is_encoder_decoder:
        raise UserError(
            f"Model {base.name!r} is an encoder–decoder; this reading is made for models that read prompt, text and "
            "answer as one line. Its nearest words, map and retention ladder can be read."
        )
    width = max(map(len, texts))
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    there = torch.zeros(len(texts), len(prompt) + width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, :len(text)] = torch.tensor(list(text))
        there[row, :len(prompt) + len(text)] = 1
    if visible is not None:
        there[:, :len(prompt)] = torch.tensor(list(visible)).long()
    words = base.module.get_input_embeddings()(ids.to(base.device))
    lead = prompt.to(base.device, words.dtype)[None].expand(len(texts), -1, -1)
    arguments: dict[str, Any] = {
        "inputs_embeds": torch.cat([lead, words], dim=1), "attention_mask": there.to(base.device),
    }
    if with_attentions:
        arguments["output_attentions"] = True
    if "use_cache" in base.forward_arguments:
        arguments["use_cache"] = False
    if "position_ids" in base.forward_arguments:
        arguments["position_ids"] = torch.arange(there.shape[1], device=base.device)[None].expand(len(texts), -1)
    return (module or base.module)(**arguments)


def right_label_losses(
    effect: Effect, prompt: torch.Tensor, *, visible: Sequence[bool] | None = None
) -> np.ndarray:
    """−log p of the right label of every row, summed over its tokens, [N]; prompt: [P, H]."""
    found = []
    for chunk in _chunks(effect, len(prompt)):
        examples = [effect.examples[i] for i in chunk]
        labels = [effect.tokens.label_ids[e.label] for e in examples]
        texts = [[*e.context, *label[:-1]] for e, label in zip(examples, labels, strict=True)]
        with torch.inference_mode():
            logits = forward(effect.base, prompt, texts, visible=visible).logits.float()
        for row, (example, label) in enumerate(zip(examples, labels, strict=True)):
            first = len(prompt) + len(example.context) - 1
            at = torch.log_softmax(logits[row, first:first + len(label)], dim=-1)
            found.append(-float(at[torch.arange(len(label)), torch.tensor(label)].sum()))
    return np.array(found)


def _chunks(effect: Effect, length: int) -> Iterator[list[int]]:
    size = max(1, PASS_TOKENS // (length + effect.tokens.longest_tokens))
    for start in range(0, len(effect.examples), size):
        effect.check_stop()
        yield list(range(start, min(start + size, len(effect.examples))))


def showing_attention(base: BaseModel) -> Any:
    """The model in a form that returns its attention; it shares every weight with the base model, which stays as is."""
    with _lock:
        if base not in _eager_copies:
            weights = [*base.module.parameters(), *base.module.buffers()]
            twin = copy.deepcopy(base.module, {id(weight): weight for weight in weights})
            twin.set_attn_implementation("eager")
            _eager_copies[base] = twin
        return _eager_copies[base]
