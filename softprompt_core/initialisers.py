"""Where virtual tokens start: small functions from the embedding table to a prompt.

Every function takes table: [V, H] float32 and returns [P, H] float32. Randomness comes only from the
generator that is passed in. Definitions: PEFT's prompt tuning, Lester et al. 2021 §3.2, and the two
variants of the well-known SoftEmbedding module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from softprompt_core.errors import UserError
from softprompt_core.visible import is_whole_word, spellings, token_style

COMMON_WORDS = 5_000


def random(table: torch.Tensor, *, length: int, generator: torch.Generator) -> torch.Tensor:
    """N(0, s) with s the standard deviation of the table, so that rows have the size of words."""
    return torch.randn(length, table.shape[1], generator=generator) * table.std()


def random_uniform(
    table: torch.Tensor, *, length: int, generator: torch.Generator, limit: float
) -> torch.Tensor:
    """U(−limit, limit), as SoftEmbedding with random_range and initialize_from_vocab=False."""
    return torch.empty(length, table.shape[1]).uniform_(-limit, limit, generator=generator)


def peft_random(table: torch.Tensor, *, length: int, generator: torch.Generator) -> torch.Tensor:
    """N(0, 1), PEFT's RANDOM: many times larger than a word's row; kept for the record."""
    return torch.randn(length, table.shape[1], generator=generator)


def sampled_vocab(
    table: torch.Tensor, *, length: int, generator: torch.Generator, word_ids: Sequence[int]
) -> torch.Tensor:
    """Rows of distinct ordinary words; the fair version of random (Lester et al. 2021, sampled vocabulary)."""
    return table[draw_words(word_ids, count=length, generator=generator)].clone()


def text(table: torch.Tensor, *, length: int, token_ids: Sequence[int]) -> torch.Tensor:
    """Rows of a text's tokens, repeated or cut to fill the prompt.

    Raises UserError when the text has no tokens.
    """
    return table[torch.tensor(fill(token_ids, length=length))].clone()


def class_labels(
    table: torch.Tensor,
    *,
    length: int,
    label_ids: Sequence[Sequence[int]],
    generator: torch.Generator,
    word_ids: Sequence[int],
) -> torch.Tensor:
    """One row a class label, the mean of its sub-word rows; what is left is sampled (Lester et al. §3.2)."""
    rows = [table[torch.tensor(ids)].mean(0) for ids in label_ids][:length]
    rest = length - len(rows)
    sampled = sampled_vocab(table, length=rest, generator=generator, word_ids=word_ids)
    return torch.cat([torch.stack(rows), sampled])


def first_rows(table: torch.Tensor, *, length: int) -> torch.Tensor:
    """The first rows of the table, SoftEmbedding's default: special tokens and bytes; for comparison only."""
    if length > len(table):
        raise UserError(
            f"first_rows: {length} virtual tokens were asked for, the vocabulary has {len(table)}."
        )
    return table[:length].clone()


def fill(token_ids: Sequence[int], *, length: int) -> list[int]:
    """Exactly `length` ids: the given ones, cut at the end or repeated from the start."""
    if not token_ids:
        raise UserError("The initial text has no tokens in this model's vocabulary. Write a few words.")
    repeats = -(-length // len(token_ids))
    return (list(token_ids) * repeats)[:length]


def draw_words(word_ids: Sequence[int], *, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` distinct ids out of these words, [count]."""
    pool = torch.tensor(list(word_ids))
    if count > len(pool):
        raise UserError(
            f"{count} virtual tokens were asked for, but the vocabulary has only {len(pool)} ordinary "
            "words to sample. Ask for fewer, or use init random."
        )
    return pool[torch.randperm(len(pool), generator=generator)[:count]]


def ordinary_word_ids(tokenizer: Any) -> list[int]:
    """The first COMMON_WORDS whole words of two letters or more, in id order: in BPE vocabularies, by frequency.

    Every ordinary id where the vocabulary marks no whole words.
    """
    style, special = token_style(tokenizer), set(tokenizer.all_special_ids)
    words: list[int] = []
    for start in range(0, len(tokenizer), 8_192):
        ids = range(start, min(start + 8_192, len(tokenizer)))
        words += [
            i for i, spelling in zip(ids, spellings(tokenizer, ids), strict=True)
            if i not in special and spelling.text and is_whole_word(spelling.text, style)
            and len(spelling.text.strip()) > 1
        ]
        if len(words) >= COMMON_WORDS:
            break
    return words[:COMMON_WORDS] or [i for i in range(len(tokenizer)) if i not in special]
