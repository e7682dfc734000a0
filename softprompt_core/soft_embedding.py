"""The well-known SoftEmbedding (github.com/kipgparker/soft-prompt-tuning) in both variants found in the wild.

A small embedding module that carries its own prompt: put in a model's place for word embeddings, the prompt
stands before every text. Axis letters: B batch rows, T tokens, P virtual tokens, H embedding width.

Both are for whole sequences, as in training and scoring: step-by-step generation with a cache would put the
prompt before every new token.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from softprompt_core.errors import UserError
from softprompt_core.records import FloatArray

Variant = Literal["replace", "prepend"]
VARIANTS: tuple[Variant, ...] = ("replace", "prepend")


class SoftEmbedding(nn.Module):
    """Word embeddings with a learned prompt in front.

    Parameters are named as in the original: `wte` and `learned_embedding` [P, H].
    """

    def __init__(
        self, wte: nn.Module, learned_embedding: torch.Tensor, *, variant: Variant = "replace"
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"variant: {variant!r} was given; allowed are {', '.join(VARIANTS)}.")
        self.wte = wte
        self.n_tokens = len(learned_embedding)
        self.variant = variant
        self.learned_embedding = nn.Parameter(learned_embedding.detach().clone().float())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The prompt and the words: from tokens [B, T].

        replace: the first P tokens are placeholders, left out; gives [B, T, H].
        prepend: every token is a word; gives [B, P + T, H].
        """
        words = self.wte(tokens[:, self.n_tokens :] if self.variant == "replace" else tokens)
        prompt = self.learned_embedding.to(words).expand(len(words), -1, -1)
        return torch.cat([prompt, words], dim=1)


def soft_embedding(prompt: FloatArray, wte: nn.Module, *, variant: Variant = "replace") -> SoftEmbedding:
    """A SoftEmbedding from a prompt [P, H] and a model's word embeddings, on their device.

    Raises UserError when the widths differ or the variant is unknown.
    """
    weight = wte.get_parameter("weight")
    width = weight.shape[-1]
    if prompt.ndim != 2 or prompt.shape[1] != width:
        shape = " by ".join(map(str, prompt.shape))
        raise UserError(
            f"The prompt has the shape {shape} and the model's words are {width} wide. "
            "Choose the model that the prompt was trained on."
        )
    matrix = torch.from_numpy(np.array(prompt, dtype=np.float32)).to(weight.device)
    return SoftEmbedding(wte, matrix, variant=variant)


def prompt_of(embedding: SoftEmbedding) -> FloatArray:
    """The prompt that a SoftEmbedding of either variant carries, a copy: [P, H] float32."""
    return embedding.learned_embedding.detach().float().cpu().numpy().copy()
