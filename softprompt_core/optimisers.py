"""The optimisers of the field, as its recipes set them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from softprompt_core.config import TrainConfig
from softprompt_core.records import Tensors


def build_optimizer(config: TrainConfig, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW; the rate of each step is set from outside (`schedules.learning_rate`)."""
    return torch.optim.AdamW(list(parameters), lr=config.lr, weight_decay=config.weight_decay)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """(tensors, plain values) of what the optimiser remembers, keyed `parameter number.name`."""
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for number, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().numpy().copy()
            else:
                values[f"{number}.{name}"] = value
    return tensors, values


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, values: dict[str, Any]
) -> None:
    """Puts back what `optimizer_state` gave."""
    state: dict[int, dict[str, Any]] = {}
    found: dict[str, Any] = {key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}
    for key, value in {**found, **values}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
