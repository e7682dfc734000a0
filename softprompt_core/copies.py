"""Copies of a shared frozen model for methods that change it, and whether there is memory for one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import psutil
import torch

from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel

GIGABYTE = 1e9
OPTIMIZER_BYTES = {"adamw": 8, "adafactor": 0}
"""Bytes that an optimiser remembers of each weight; Adafactor keeps sums over rows and columns only."""


def structural_copy(base: BaseModel) -> BaseModel:
    """The model with modules of its own and every weight shared, so that layers can be put in without a second copy."""
    return replace(base, module=_copied(base.module, {id(tensor): tensor for tensor in _tensors(base.module)}))


def trainable_copy(base: BaseModel) -> BaseModel:
    """The model with weights of its own in float32, all of them trainable; tied weights stay tied."""
    owned: dict[int, Any] = {}
    for tensor in _tensors(base.module):
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        own = tensor.detach().to(dtype, copy=True)
        is_weight = isinstance(tensor, torch.nn.Parameter)
        owned[id(tensor)] = torch.nn.Parameter(own, requires_grad=own.is_floating_point()) if is_weight else own
    return replace(base, module=_copied(base.module, owned), dtype=torch.float32)


def check_memory(base: BaseModel, *, optimizer: str | None) -> None:
    """Nothing, when there is room for a copy of all weights; with an optimiser, for training them as well.

    Every weight takes 4 bytes for itself, 4 for its gradient, what the optimiser remembers, and in main memory once
    more all but the gradient, for the best state so far and for a checkpoint while it is written. Activations are
    not counted. Raises UserError with the figures otherwise.
    """
    weights = sum(parameter.numel() for parameter in base.module.parameters())
    trained = 8 + OPTIMIZER_BYTES[optimizer] if optimizer else 4
    kept = 4 + (trained - 4) if optimizer else 0
    is_apart = base.device.type == "cuda"
    needs = [(str(base.device), trained, available_bytes(base.device))] if is_apart else []
    needs.append(("main memory", kept if is_apart else trained + kept, available_bytes(torch.device("cpu"))))
    for where, each, available in needs:
        if weights * each > available:
            what = f"training all {weights:,} weights of" if optimizer else f"a copy of all {weights:,} weights of"
            raise UserError(
                f"Full fine-tuning: {what} {base.name!r} takes about {weights * each / GIGABYTE:.1f} GB of {where} "
                f"({each} bytes a weight), of which {available / GIGABYTE:.1f} GB are free. "
                "Choose the method lora or prompt, which leave the weights as they are, or a smaller model."
            )


def available_bytes(device: torch.device) -> int:
    """Memory that can still be had there."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _tensors(module: Any) -> list[torch.Tensor]:
    """Every parameter and buffer once."""
    return [*module.parameters(), *module.buffers()]


def _copied(module: Any, tensors: dict[int, Any]) -> Any:
    """A deep copy of a module in which `tensors`, keyed by the id of the original, take the originals' place."""
    return copy.deepcopy(module, dict(tensors))
