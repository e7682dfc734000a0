"""The optimisers of the field, as its recipes set them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.optimization import Adafactor

from softprompt_core.config import TrainConfig
from softprompt_core.records import Tensors


def build_optimizer(config: TrainConfig, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or Adafactor as Lester et al. set it; the rate of each step is set from outside (`schedules`)."""
    if config.optimizer == "adafactor":
        kind = MatrixAdafactor if config.method in ("lora", "full") else PromptAdafactor
        return kind(list(parameters), config.lr, weight_decay=config.weight_decay)
    return torch.optim.AdamW(list(parameters), lr=config.lr, weight_decay=config.weight_decay)


class PromptAdafactor(Adafactor):
    """Adafactor (Shazeer & Stern 2018) with the settings that Lester et al. 2021 published with their code.

    No scaling by the parameter's size, decay rate 0.8, updates clipped at a root mean square of 1. Two things differ
    from transformers' Adafactor, and more from torch's, which always scales by the parameter's size: their second
    moments are kept whole for a prompt, not as rows and columns; and weight decay is a share of the parameter at every
    step, whatever the learning rate. Their files: prompt_tuning/configs/models/t5_1_1_prompt.gin,
    prompt_tuning/train/optim.py, t5x/adafactor.py.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, *, weight_decay: float = 0.0) -> None:
        self._weight_decay = weight_decay
        super().__init__(parameters, lr=lr, scale_parameter=False, relative_step=False, warmup_init=False)

    @staticmethod
    def _get_options(param_group: dict[str, Any], param_shape: torch.Size) -> tuple[bool, bool]:
        return False, False     # neither factored nor with a first moment

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; without scaling the update does not depend on the parameter, so decay may come first."""
        if self._weight_decay:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.mul_(1 - self._weight_decay)
        return super().step(closure)


class MatrixAdafactor(PromptAdafactor):
    """The same for weight matrices, whose second moments are kept as rows and columns: they are many."""

    _get_options = staticmethod(Adafactor._get_options)


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
