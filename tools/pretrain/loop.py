"""The training loop: what it needs to know, its batches, loss, optimisers and learning rates."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokens import Stream
from torch.nn import functional
from transformers import LlamaForCausalLM

LossOf = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """What the training loop needs to know; written beside every log."""

    minutes: float | None
    tokens: int | None
    device: str
    mix: dict[str, float]
    batch: int
    length: int
    muon_rate: float
    adam_rate: float
    answer_weight: float
    decay: float
    warmup_steps: int
    seed: int


@dataclass(frozen=True)
class Progress:
    """How far training has come, over all resumed runs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def rate_scale(done: float, step: int, recipe: Recipe) -> float:
    """Return the factor on all learning rates: warm-up, stable, then linear decay (`done` is 0 to 1).

    Hu et al., "MiniCPM" (2024): a stable phase may be stopped at any time, by decaying.
    """
    return min(1.0, (step + 1) / recipe.warmup_steps, max(0.01, (1 - done) / recipe.decay))


def fraction_done(progress: Progress, recipe: Recipe) -> float:
    """Return the share of the budget that is spent: of minutes, of tokens, or the larger of the two."""
    shares = []
    if recipe.minutes is not None:
        shares.append(progress.seconds / 60 / recipe.minutes)
    if recipe.tokens is not None:
        shares.append(progress.tokens / recipe.tokens)
    return max(shares)


def sample_batch(streams: dict[str, Stream], recipe: Recipe, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [B, T] int64 and loss weights [B, T] float32, a function of seed and step alone."""
    rng = np.random.default_rng((recipe.seed, step))
    names = list(recipe.mix)
    weights = np.array([recipe.mix[name] for name in names])
    ids, importance = [], []
    for row in rng.choice(len(names), size=recipe.batch, p=weights / weights.sum()):
        stream = streams[names[row]]
        first = rng.integers(0, len(stream.ids) - recipe.length)
        ids.append(stream.ids[first : first + recipe.length].astype(np.int64))
        importance.append(1 + (recipe.answer_weight - 1) * stream.is_answer[first : first + recipe.length])
    return torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(importance).astype(np.float32))


def make_loss(model: LlamaForCausalLM, device: str) -> LossOf:
    """Return the weighted next-token loss of the model in bfloat16 autocast."""

    def loss_of(ids: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden)
        losses = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = importance[:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()

    return loss_of


def make_optimisers(model: LlamaForCausalLM, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """Return Muon (Jordan et al., 2024) for the layers' matrices and AdamW for embeddings and norms."""
    matrices = [(n, p) for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [(n, p) for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return {
        "muon": torch.optim.Muon(matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.01),
        "adamw": torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    }


@torch.no_grad()
def held_out_loss(loss_of: LossOf, held_out: dict[str, Stream], recipe: Recipe, *, windows: int) -> dict[str, float]:
    """Return {source: mean loss per token}, unweighted, over evenly spaced windows of each stream."""
    result = {}
    for source, stream in held_out.items():
        # ceiling of whole batches keeps one compiled shape
        starts = np.linspace(0, len(stream.ids) - recipe.length - 1, -(-windows // recipe.batch) * recipe.batch)
        losses = []
        for part in starts.astype(int).reshape(-1, recipe.batch):
            rows = np.stack([stream.ids[first : first + recipe.length].astype(np.int64) for first in part])
            ids = torch.from_numpy(rows).to(recipe.device)
            losses.append(loss_of(ids, torch.ones(ids.shape, device=recipe.device)).item())
        result[source] = round(float(np.mean(losses)), 3)
    return result


def train(
    model: LlamaForCausalLM,
    optimisers: dict[str, torch.optim.Optimizer],
    streams: dict[str, Stream],
    *,
    loss_of: LossOf,
    recipe: Recipe,
    progress: Progress,
) -> Iterator[tuple[Progress, float]]:
    """Yield progress and the weighted training loss after each step until the budget is spent."""
    rates = {"muon": recipe.muon_rate, "adamw": recipe.adam_rate}
    started = time.monotonic() - progress.seconds
    while (done := fraction_done(progress, recipe)) < 1:
        scale = rate_scale(done, progress.step, recipe)
        for name, optimiser in optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rates[name] * scale
        ids, importance = sample_batch(streams, recipe, progress.step)
        loss = loss_of(ids.to(recipe.device), importance.to(recipe.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        progress = Progress(progress.step + 1, progress.tokens + ids.numel(), time.monotonic() - started)
        yield progress, loss.item()
