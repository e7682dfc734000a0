"""What each virtual token does: leave one out, leave more and more out, and shuffle their order.

Three ways of leaving a token out disagree often, so all are shown: hidden from attention where it stands (mask),
taken out so that the rest move up (deletion), and replaced by the mean word (mean).

Axis letters: P virtual tokens, N rows, H embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.forward import right_label_losses
from softprompt_core.models import embedding_table
from softprompt_core.records import FloatArray

Way = Literal["mask", "deletion", "mean"]
WAYS: tuple[Way, ...] = get_args(Way)
SHUFFLES = 20


@dataclass(frozen=True)
class Ablation:
    """What leaving one virtual token out adds to the loss per row, in nats, with the 95 % interval of that mean."""

    index: int
    way: Way
    delta: float
    low: float
    high: float


@dataclass(frozen=True)
class Cumulative:
    """Loss and accuracy with only the `kept` most needed virtual tokens left."""

    kept: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class OrderSensitivity:
    """Accuracy of the prompt as it is and over shuffles of its tokens."""

    accuracy: float
    shuffled: list[float]

    @property
    def loss_of_accuracy(self) -> float:
        """What a shuffle costs on average."""
        return self.accuracy - float(np.mean(self.shuffled))


def ablate(
    effect: Effect,
    prompt: FloatArray,
    *,
    visible: np.ndarray | None = None,
    only: Sequence[int] | None = None,
) -> list[Ablation]:
    """Every token (or those in `only`) left out in every way; prompt: [P, H]. `visible` [P] hides tokens throughout.

    The interval is that of a paired mean over rows (normal approximation).
    """
    lead, shown = torch.from_numpy(prompt), np.ones(len(prompt), bool) if visible is None else visible.copy()
    whole = right_label_losses(effect, lead, visible=shown.tolist())
    mean = embedding_table(effect.base).mean(0)
    found = []
    for index in range(len(prompt)) if only is None else only:
        for way in WAYS:
            losses = _without(effect, lead, shown, index, way, mean)
            difference = losses - whole
            error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
            delta = float(difference.mean())
            found.append(Ablation(index, way, delta, delta - 1.96 * error, delta + 1.96 * error))
    return found


def _without(
    effect: Effect, lead: torch.Tensor, shown: np.ndarray, index: int, way: Way, mean: torch.Tensor
) -> np.ndarray:
    if way == "mask":
        hidden = shown.copy()
        hidden[index] = False
        return right_label_losses(effect, lead, visible=hidden.tolist())
    if way == "deletion":
        left = [i for i in range(len(lead)) if i != index]
        return right_label_losses(effect, lead[left], visible=shown[left].tolist())
    replaced = lead.clone()
    replaced[index] = mean
    return right_label_losses(effect, replaced, visible=shown.tolist())


def cumulative(
    effect: Effect, prompt: FloatArray, ablations: list[Ablation], *, way: Way = "deletion"
) -> list[Cumulative]:
    """How many tokens are needed: the prompt with only its most needed tokens left, from none to all, in place."""
    needed = sorted((a for a in ablations if a.way == way), key=lambda a: -a.delta)
    found = []
    for kept in range(len(needed) + 1):
        left = sorted(a.index for a in needed[:kept])
        outcome = effect.of(prompt[left])
        found.append(Cumulative(kept, outcome.accuracy, outcome.loss))
    return found


def order_sensitivity(
    effect: Effect, prompt: FloatArray, *, shuffles: int = SHUFFLES, seed: int = 0
) -> OrderSensitivity:
    """The prompt's accuracy when its tokens stand in random order; prompt: [P, H]."""
    rng = np.random.default_rng(seed)
    shuffled = [effect.of(prompt[rng.permutation(len(prompt))]).accuracy for _ in range(shuffles)]
    return OrderSensitivity(effect.of(prompt).accuracy, shuffled)
