"""Learning rates over a run."""

from __future__ import annotations

import math

from softprompt_core.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimiser step `step` (1 … steps): linear warm-up, then linear, cosine or constant."""
    warm = round(config.warmup * config.steps)
    if step <= warm:
        return config.lr * step / warm
    done = (step - 1 - warm) / max(1, config.steps - warm)
    if config.schedule == "linear":
        return config.lr * (1 - done)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr
