"""What engines are compared with: the definition of the loss, row by row, and PEFT's own model; rows to try."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model

from softprompt_core.models import BaseModel
from softprompt_core.plans import Row
from tests.tiny import VOCABULARY

Answer = tuple[torch.Tensor, torch.Tensor]
"""(loss, its gradient in the prompt)."""


def prompts_of(count: int, length: int = 5, *, seed: int = 0) -> torch.Tensor:
    """Prompts for the tiny models, [count, length, 32]."""
    return torch.randn(count, length, 32, generator=torch.Generator().manual_seed(seed))


def some_rows(count: int, *, seed: int = 0, longer: int = 0) -> list[Row]:
    """Rows of 3 to 13 tokens, and so many more, with labels of 1 to 3."""
    draw = _drawer(seed)
    return [Row(draw(3 + longer + (7 * i) % 11), (draw(1 + i % 3),)) for i in range(count)]


def rows_of_one_length(count: int, tokens: int, *, seed: int = 0) -> list[Row]:
    """Rows whose text and label together are so many tokens, so that PEFT needs no padding."""
    draw = _drawer(seed)
    return [Row(draw(tokens - 2 - i % 2), (draw(2 + i % 2),)) for i in range(count)]


def _drawer(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()


def loss_by_hand(base: BaseModel, prompt: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The definition, row by row with nothing clever: −Σ log p ÷ label tokens; prompt: [P, H]."""
    total, count = torch.zeros((), dtype=prompt.dtype), 0
    embed = base.module.get_input_embeddings()
    for row in rows:
        label = list(row.continuations[0])
        words = embed(torch.tensor([[*row.context, *label]]))
        logits = base.module(inputs_embeds=torch.cat([prompt[None], words], dim=1)).logits[0]
        start = len(prompt) + len(row.context) - 1
        total = total - torch.log_softmax(logits[start:start + len(label)], dim=-1)[range(len(label)), label].sum()
        count += len(label)
    return total / count


def answer_by_hand(base: BaseModel, prompt: torch.Tensor, rows: Sequence[Row]) -> Answer:
    leaf = prompt.clone().requires_grad_(True)
    loss = loss_by_hand(base, leaf, rows)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def peft_twin(base: BaseModel, prompt: torch.Tensor) -> Any:
    """PEFT's prompt tuning on a copy of the model, started from the same prompt [P, H]."""
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt), prompt_tuning_init=PromptTuningInit.RANDOM,
        token_dim=base.hidden_size, num_layers=2, num_attention_heads=4,
    )
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    with torch.no_grad():
        twin.prompt_encoder["default"].embedding.weight.copy_(prompt)
    return twin


def peft_batch(rows: Sequence[Row], *, width: int | None = None) -> dict[str, torch.Tensor]:
    """Rows as PEFT's causal example makes them: text and label, padded on the left with token 1, with a mask."""
    width = width or max(len(r.context) + len(r.continuations[0]) for r in rows)
    ids, mask, labels = [], [], []
    for row in rows:
        label = list(row.continuations[0])
        padding = width - len(row.context) - len(label)
        ids.append([1] * padding + [*row.context, *label])
        mask.append([0] * padding + [1] * (width - padding))
        labels.append([-100] * (padding + len(row.context)) + label)
    return {
        "input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels),
    }


def answer_of_peft(base: BaseModel, prompt: torch.Tensor, batch: dict[str, torch.Tensor]) -> Answer:
    twin = peft_twin(base, prompt)
    loss = twin(**batch).loss
    loss.backward()
    return loss.detach(), twin.prompt_encoder["default"].embedding.weight.grad


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
