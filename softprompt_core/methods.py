"""What a run trains: a soft prompt natively; other methods, to compare with, through PEFT.

Each method has the model its rows go through, what stands before the text there, and the tensors that were learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel
from softprompt_core.records import Tensors


class Method(Protocol):
    """Something that learns; every tensor is float32."""

    base: BaseModel
    """The model that rows go through: the shared frozen one, or a copy that shares what it does not change."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser changes."""

    def lead(self) -> torch.Tensor:
        """What stands before the text now, [P, H] with gradients; P may be 0."""

    def tensors(self) -> Tensors:
        """A copy of everything learned so far."""

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Puts back what `tensors` gave."""


class SoftPrompt:
    """Prompt tuning (Lester et al. 2021): the rows of the prompt are all there is to learn."""

    def __init__(self, base: BaseModel, prompt: torch.Tensor) -> None:
        self.base = base
        self.prompt = torch.nn.Parameter(prompt.to(base.device, torch.float32))

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.prompt]

    def lead(self) -> torch.Tensor:
        return self.prompt

    def tensors(self) -> Tensors:
        return {"prompt_embeddings": as_array(self.prompt)}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            self.prompt.copy_(torch.from_numpy(tensors["prompt_embeddings"]))


def build_method(config: TrainConfig, base: BaseModel, prompt: torch.Tensor) -> Method:
    """The method that the settings name, at its start; prompt: [P, H], where a soft prompt would start.

    Raises UserError when the model does not allow it.
    """
    if config.method == "prompt":
        return SoftPrompt(base, prompt)
    raise UserError(f"method: {config.method!r} is not there yet; choose prompt.")


def joined(leads: Sequence[torch.Tensor]) -> torch.Tensor:
    """The leads of runs that share a model pass, [K, P, H]."""
    return torch.stack(list(leads))


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy on the CPU in float32."""
    return tensor.detach().float().cpu().numpy().copy()
