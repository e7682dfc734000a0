"""Integrated gradients of each virtual token, with the error of completeness (Sundararajan et al. 2017).

Axis letters: P virtual tokens, H embedding width, S steps of the path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from softprompt_core.inspection.effect import Effect
from softprompt_core.layouts import batch_losses
from softprompt_core.models import embedding_table
from softprompt_core.records import FloatArray

FIRST_STEPS, MOST_STEPS = 16, 512
COMPLETE = 0.01
ROWS = 32


@dataclass(frozen=True)
class Attribution:
    """attribution: [P] in nats of mean log p of the right labels per label token; error: share by which the
    attributions miss the difference they should add up to; is_complete: whether a ranking may be shown."""

    attribution: np.ndarray
    error: float
    steps: int
    is_complete: bool


def integrated_gradients(effect: Effect, prompt: FloatArray, *, rows: int = ROWS) -> Attribution:
    """The attribution of each virtual token on the straight way from the mean word to the prompt [P, H].

    Gauss–Legendre points, doubled until the attributions add up within 1 % to log p(prompt) − log p(mean word): the
    path bends sharply near the mean, where equal steps need many times as many. Without that no ranking holds.
    """
    end = torch.from_numpy(prompt).to(effect.base.device, torch.float32)
    start = embedding_table(effect.base).mean(0).to(end)[None].expand_as(end).contiguous()
    examples = effect.rows(rows)
    ends = [_loss_and_gradient(effect, point, examples)[0] for point in (start, end)]
    gained = ends[0] - ends[1]
    steps = FIRST_STEPS
    while True:
        places, weights = np.polynomial.legendre.leggauss(steps)
        total = torch.zeros_like(end)
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            effect.check_stop()
            _, gradient = _loss_and_gradient(effect, start + float(place) * (end - start), examples)
            total -= float(weight) * gradient
        attribution = ((end - start) * total).sum(1).double().cpu().numpy()
        error = abs(attribution.sum() - gained) / max(abs(gained), 1e-9)
        if error <= COMPLETE or steps >= MOST_STEPS:
            return Attribution(attribution, float(error), steps, bool(error <= COMPLETE))
        steps *= 2


def _loss_and_gradient(effect: Effect, prompt: torch.Tensor, rows: list) -> tuple[float, torch.Tensor]:
    leaf = prompt.detach().clone().requires_grad_(True)
    losses, _ = batch_losses(effect.base, leaf[None], [rows], layout=effect.layout)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return float(losses.detach().sum()), gradient
