"""Training a prompt toward words: to find words that work (PEZ), or to make a prompt's nearest words say anything.

Both take steps on the task's training rows through the frozen model, as training does, and are generators: each yield
tells how far it is.

Axis letters: P virtual tokens, H embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.vocabulary import Vocabulary
from softprompt_core.layouts import batch_losses
from softprompt_core.models import embedding_table
from softprompt_core.records import FloatArray

BATCH = 8
PEZ_STEPS, PEZ_RATE = 100, 0.1
TWIN_STEPS, TWIN_RATE = 300, 0.03
GAMMA = 0.03


@dataclass(frozen=True)
class SteeringStep:
    """One step: the task's loss, and the distance term before its factor γ (0 for PEZ)."""

    step: int
    of: int
    loss: float
    distance: float


def projected_words(
    effect: Effect, prompt: FloatArray, vocabulary: Vocabulary, *, steps: int = PEZ_STEPS, rate: float = PEZ_RATE,
    seed: int = 0,
) -> Generator[SteeringStep, None, list[int]]:
    """The ids [P] of words found by PEZ (Wen et al. 2023) from a prompt [P, H]: the lowest loss over its steps.

    Each step projects the prompt on its nearest listed words, takes the gradient there, and applies it to the
    prompt that was not projected.
    """
    base, rows = effect.base, effect.training_batches(BATCH, seed=seed)
    listed = torch.from_numpy(np.flatnonzero(vocabulary.is_listed))
    table = embedding_table(base)[listed].to(base.device)
    units = torch.nn.functional.normalize(table, dim=1)
    free = torch.nn.Parameter(torch.from_numpy(prompt.copy()).to(base.device))
    optimizer = torch.optim.AdamW([free], lr=rate, weight_decay=0.0)
    fixed = effect.training_rows(8 * BATCH)
    best, best_loss = _nearest(free, units), float("inf")
    for step in range(1, steps + 1):
        effect.check_stop()
        ids = _nearest(free, units)
        words = table[ids].clone().requires_grad_(True)
        losses, _ = batch_losses(base, words[None], [next(rows)], layout=effect.layout)
        (free.grad,) = torch.autograd.grad(losses.sum(), words)
        torch.nn.utils.clip_grad_norm_([free], 1.0)
        optimizer.step()
        if step % 10 == 0 or step == steps:
            now = _nearest(free, units)
            with torch.no_grad():
                found = float(batch_losses(base, table[now][None], [fixed], layout=effect.layout)[0].sum())
            if found < best_loss:
                best, best_loss = now, found
        yield SteeringStep(step, steps, float(losses.detach().sum()), 0.0)
    return [int(i) for i in listed[best.cpu()]]


def _nearest(rows: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    return (torch.nn.functional.normalize(rows.detach(), dim=1) @ units.T).argmax(1)


def wayward_twin(
    effect: Effect,
    prompt: FloatArray,
    decoy_ids: Sequence[int],
    *,
    gamma: float = GAMMA,
    steps: int = TWIN_STEPS,
    rate: float = TWIN_RATE,
    seed: int = 0,
) -> Generator[SteeringStep, None, FloatArray]:
    """A prompt [P, H] that does what `prompt` does while its nearest words spell the decoy, repeated to fill it.

    Loss: the task's + γ · Σ‖P_i − E[t_i]‖² / P (Khashabi et al. 2022). It starts at the decoy's own rows, where the
    words are right and the effect is not yet. Of all steps whose words spell the decoy, the one with the lowest loss on
    fixed training rows is given back.
    """
    base, rows = effect.base, effect.training_batches(BATCH, seed=seed)
    ids = torch.tensor([decoy_ids[i % len(decoy_ids)] for i in range(len(prompt))])
    table = embedding_table(base)
    target = table[ids].to(base.device)
    units = torch.nn.functional.normalize(table, dim=1).to(base.device)
    twin = torch.nn.Parameter(target.clone())
    optimizer = torch.optim.AdamW([twin], lr=rate, weight_decay=0.0)
    fixed = effect.training_rows(8 * BATCH)
    best, best_loss = twin.detach().clone(), float("inf")
    for step in range(1, steps + 1):
        effect.check_stop()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - (step - 1) / steps)
        losses, _ = batch_losses(base, twin[None], [next(rows)], layout=effect.layout)
        distance = ((twin - target) ** 2).sum(1).mean()
        (losses.sum() + gamma * distance).backward()
        torch.nn.utils.clip_grad_norm_([twin], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps:
            spells = bool((_nearest(twin, units).cpu() == ids).all())
            with torch.no_grad():
                found = float(batch_losses(base, twin.detach()[None], [fixed], layout=effect.layout)[0].sum())
            if spells and found < best_loss:
                best, best_loss = twin.detach().clone(), found
        yield SteeringStep(step, steps, float(losses.detach().sum()), float(distance.detach()))
    return best.cpu().numpy()
