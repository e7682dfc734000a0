"""Using prompts: classify texts, each row with its own prompt if need be, through one frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from softprompt_core.config import TrainConfig
from softprompt_core.data import Task
from softprompt_core.errors import UserError
from softprompt_core.evaluation import label_scores
from softprompt_core.layouts import Prefix
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName
from softprompt_core.tokenising import longest_row, tokenise


def predict(
    base: BaseModel,
    prompt: torch.Tensor | Prefix,
    rows: Sequence[dict[str, str]],
    *,
    config: TrainConfig,
    labels: Sequence[str],
    text_column: str,
    layout: LayoutName = "concatenated",
) -> list[dict[str, Any]]:
    """Per row its likeliest label, log p of every label, and those as shares that sum to one.

    prompt: [P, H], or one prefix; rows hold every column that the template names, or a UserError says which is missing.
    """
    if not all(text_column in row for row in rows):
        raise UserError(
            f"The prompt reads its text from the column {text_column!r}; the columns given are "
            f"{', '.join(map(repr, rows[0]))}. Rename the column that holds the text."
        )
    label_column = "label" if text_column != "label" else "label_"
    task = Task(
        name="texts", labels=tuple(labels), columns=(*rows[0], label_column), text_column=text_column,
        label_column=label_column, dropped_rows=0,
        splits={"test": [{**row, label_column: labels[0]} for row in rows]},
    )
    tokens = tokenise(
        task, base.tokenizer, config, context=base.context, is_encoder_decoder=base.is_encoder_decoder
    )
    contexts = [e.context for e in tokens.splits["test"]]
    if config.peft_positions:       # as it was trained
        layout = "peft"
    scores = label_scores(
        base, prompt, contexts, tokens.label_ids, layout=layout, padded_to=longest_row(config, base.context)
    )
    shares = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    return [
        {
            "text": row[text_column],
            "label": labels[int(found.argmax())],
            "scores": dict(zip(labels, found.tolist(), strict=True)),
            "probabilities": dict(zip(labels, share.tolist(), strict=True)),
        }
        for row, found, share in zip(rows, scores, shares, strict=True)
    ]
