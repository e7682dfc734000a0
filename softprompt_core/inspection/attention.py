"""How much attention the predicted position pays to each virtual token, by layer and head.

Axis letters: L layers, A heads, P virtual tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from softprompt_core.errors import UserError
from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.forward import forward, showing_attention
from softprompt_core.records import FloatArray

ROWS = 64


@dataclass(frozen=True)
class AttentionMass:
    """mass: [L, A, P], the share of attention that the place where the label begins pays to each virtual token."""

    mass: np.ndarray

    @property
    def by_layer_and_head(self) -> np.ndarray:
        """λ: the share that goes to the whole prompt, [L, A]."""
        return self.mass.sum(2)

    @property
    def by_token(self) -> np.ndarray:
        """The mean share over layers and heads, [P]."""
        return self.mass.mean((0, 1))


def attention_mass(effect: Effect, prompt: FloatArray, *, rows: int = ROWS) -> AttentionMass:
    """The mean over rows of attention from the last token of the text to each virtual token; prompt: [P, H].

    Raises UserError for architectures that have no attention to show.
    """
    module = showing_attention(effect.base)
    examples = effect.examples[:rows]
    total: np.ndarray | None = None
    for start in range(0, len(examples), 8):
        effect.check_stop()
        texts = [e.context for e in examples[start:start + 8]]
        with torch.inference_mode():
            output = forward(effect.base, torch.from_numpy(prompt), texts, module=module, with_attentions=True)
        layers = getattr(output, "attentions", None)
        if not layers or any(layer is None for layer in layers):
            raise UserError("This architecture gives no attention weights, so none can be shown.")
        last = [len(prompt) + len(text) - 1 for text in texts]
        found = np.stack([
            layer.float()[torch.arange(len(texts)), :, torch.tensor(last), :len(prompt)].sum(0).cpu().numpy()
            for layer in layers
        ])
        total = found if total is None else total + found
    assert total is not None
    return AttentionMass(total / len(examples))
