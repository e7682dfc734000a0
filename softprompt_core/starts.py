"""Where a run begins: the prompt before its first step, and the facts it is made on."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch

from softprompt_core import initialisers
from softprompt_core.config import TrainConfig
from softprompt_core.data import default_prompt_text
from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel
from softprompt_core.records import FloatArray
from softprompt_core.tokenising import TokenisedTask, text_token_ids
from softprompt_core.visible import token_text


def written_prompt(config: TrainConfig, tokens: TokenisedTask) -> str:
    """The hand-written prompt of a run: the user's initial text, else one that names the labels."""
    return config.init_text or default_prompt_text(tokens.task)


def starting_prompt(
    config: TrainConfig, base: BaseModel, tokens: TokenisedTask, table: torch.Tensor, *, start: FloatArray | None = None
) -> tuple[torch.Tensor, list[int] | None]:
    """(prompt [P, H] before training, the token ids it was made of where it was made of tokens).

    start: [P, H], the trained prompt that init from_run begins at. Raises UserError when it does not fit.
    """
    if config.init == "from_run":
        return _warm_start(config, base, start), None
    generator = torch.Generator().manual_seed(config.seed)
    length = config.virtual_tokens
    if config.init == "text":
        ids = text_token_ids(written_prompt(config, tokens), base.tokenizer)
        return initialisers.text(table, length=length, token_ids=ids), initialisers.fill(ids, length=length)
    if config.init == "random":
        return initialisers.random(table, length=length, generator=generator), None
    if config.init == "random_uniform":
        return initialisers.random_uniform(
            table, length=length, generator=generator, limit=config.init_range
        ), None
    if config.init == "peft_random":
        return initialisers.peft_random(table, length=length, generator=generator), None
    if config.init == "first_rows":
        return initialisers.first_rows(table, length=length), list(range(length))
    words = initialisers.ordinary_word_ids(base.tokenizer)
    if config.init == "class_labels":
        special = set(base.tokenizer.all_special_ids)
        labels = [[i for i in ids if i not in special] or ids[:-1] for ids in tokens.label_ids]
        return initialisers.class_labels(
            table, length=length, label_ids=labels, generator=generator, word_ids=words
        ), None
    drawn = initialisers.draw_words(words, count=length, generator=generator)
    return table[drawn].clone(), drawn.tolist()


def _warm_start(config: TrainConfig, base: BaseModel, start: FloatArray | None) -> torch.Tensor:
    """A trained prompt as the start of another run (SPoT, Vu et al. 2022)."""
    if start is None:
        raise UserError(f"Run {config.init_run!r} has no prompt to start from. Choose a run that has trained one.")
    check_start(start, config, width=base.hidden_size)
    return torch.from_numpy(start.copy())


def check_start(start: FloatArray, config: TrainConfig, *, width: int) -> None:
    """Raises UserError when a run on a model of this width cannot begin at the prompt `start` [P, H]."""
    if start.shape != (config.virtual_tokens, width):
        raise UserError(
            f"The prompt of run {config.init_run!r} is {start.shape[0]} × {start.shape[1]}; this run has "
            f"{config.virtual_tokens} virtual tokens on a model of width {width}. "
            f"Use {start.shape[0]} virtual tokens and the model it was trained on."
        )


def run_facts(
    config: TrainConfig, base: BaseModel, tokens: TokenisedTask, *, init_ids: list[int] | None
) -> dict[str, Any]:
    """What a run is made on: revision, data hash, versions, device, the tokens of its start (`starting_prompt`)."""
    packages = ("torch", "transformers", "peft", "tokenizers", "safetensors")
    return {
        "model_revision": base.revision, "data_hash": tokens.task.fingerprint, "device": str(base.device),
        "dtype": str(base.dtype).removeprefix("torch."), "labels": list(tokens.task.labels),
        "text_column": tokens.task.text_column, "label_column": tokens.task.label_column,
        "is_encoder_decoder": base.is_encoder_decoder,
        "steps": config.steps,
        "split_sizes": {split: len(rows) for split, rows in tokens.splits.items()},
        "init_tokens": [token_text(base.tokenizer, i) for i in init_ids] if init_ids else None,
        "hand_written_prompt": written_prompt(config, tokens),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
