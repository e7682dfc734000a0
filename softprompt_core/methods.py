"""What a run trains: a soft prompt natively; other methods, to compare with, through PEFT.

Each method has the model its rows go through, what stands before the text there, and the tensors that were learned.
Dropout is off in all of them, as it is for prompts: the base model stays in evaluation mode.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from softprompt_core.config import TrainConfig
from softprompt_core.copies import check_memory, structural_copy, trainable_copy
from softprompt_core.errors import UserError
from softprompt_core.layouts import Prefix, prefix_left_by
from softprompt_core.models import BaseModel
from softprompt_core.records import Tensors

_SEEDING = threading.Lock()
Lead = torch.Tensor | Prefix
"""What stands before a text: a prompt [P, H], where P may be 0, or one prefix."""


class Method(Protocol):
    """Something that learns; every tensor is float32."""

    base: BaseModel
    """The model that rows go through: the shared frozen one, or a copy that shares what it does not change."""
    about: str
    """What is trained, for the run's log."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser changes."""

    def lead(self) -> Lead:
        """What stands before the text now, with gradients."""

    def tensors(self) -> Tensors:
        """A copy of everything learned so far."""

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Puts back what `tensors` gave. Raises ValueError for anything else."""


class _Learner:
    """What all methods have in common: parameters with names."""

    def __init__(self, base: BaseModel, learned: Mapping[str, torch.nn.Parameter], about: str) -> None:
        self.base, self._learned, self.about = base, dict(learned), about

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self._learned.values())

    def tensors(self) -> Tensors:
        return {name: as_array(parameter) for name, parameter in self._learned.items()}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        expected = {name: tuple(parameter.shape) for name, parameter in self._learned.items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:       # copying would stretch a tensor of another shape where it can
            name = next(iter(dict(set(found.items()) ^ set(expected.items()))))
            raise ValueError(f"{name}: {found.get(name, 'none')} was given, {expected.get(name, 'none')} is needed")
        with torch.no_grad():
            for name, parameter in self._learned.items():
                parameter.copy_(torch.from_numpy(tensors[name]))


class SoftPrompt(_Learner):
    """Prompt tuning (Lester et al. 2021): the rows of the prompt are all there is to learn."""

    def __init__(self, base: BaseModel, prompt: torch.Tensor) -> None:
        self.prompt = torch.nn.Parameter(prompt.to(base.device, torch.float32))
        super().__init__(base, {"prompt_embeddings": self.prompt}, "prompt tuning")

    def lead(self) -> torch.Tensor:
        return self.prompt


class PTuning(_Learner):
    """P-tuning (Liu et al. 2021) with PEFT's encoder: an MLP over learned embeddings gives the rows of the prompt."""

    def __init__(self, base: BaseModel, *, length: int, seed: int) -> None:
        from peft import PromptEncoder, PromptEncoderConfig

        config = PromptEncoderConfig(
            num_virtual_tokens=length, token_dim=base.hidden_size, encoder_hidden_size=base.hidden_size,
            num_transformer_submodules=1,
        )
        with seeded(seed):
            self._encoder = PromptEncoder(config).to(base.device, torch.float32)
        self._places = torch.arange(length, device=base.device)
        about = f"p-tuning: an encoder of {base.hidden_size} hidden units makes {length} virtual tokens"
        super().__init__(base, dict(self._encoder.named_parameters()), about)

    def lead(self) -> torch.Tensor:
        return self._encoder(self._places)


class PrefixTuning(_Learner):
    """Prefix tuning (Li & Liang 2021) with PEFT's encoder: keys and values before the text in every layer.

    It starts at the keys and values that the model computes for the starting prompt, the paper's "real words"
    (§7.4); PEFT's own start, N(0, 1), is far from any key or value of a trained model.
    """

    def __init__(self, base: BaseModel, prompt: torch.Tensor) -> None:
        from peft import PrefixEncoder, PrefixTuningConfig

        if base.is_encoder_decoder:
            raise UserError(
                f"Model {base.name!r} is an encoder–decoder; prefix tuning is there for causal models only. "
                "Choose the method prompt, p_tuning, lora or full."
            )
        start = prefix_left_by(base, prompt.to(base.device)[None]).keys_values[0]
        self._layers, _, self._heads, self._length, self._width = start.shape
        self.config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self._length, num_layers=self._layers,
            num_attention_heads=self._heads, token_dim=self._heads * self._width, num_transformer_submodules=1,
        )
        with seeded(0):     # overwritten at once
            self._encoder = PrefixEncoder(self.config).to(base.device, torch.float32)
        self._encoder.load_prompt_embeddings(start.permute(3, 0, 1, 2, 4).flatten(1))
        self._places = torch.arange(self._length, device=base.device)
        about = f"prefix tuning: {self._length} keys and values in each of {self._layers} layers"
        super().__init__(base, {"prompt_embeddings": next(self._encoder.parameters())}, about)

    def lead(self) -> Prefix:
        rows = self._encoder(self._places).view(self._length, self._layers, 2, self._heads, self._width)
        return Prefix(rows.permute(1, 2, 3, 0, 4)[None])


class Lora(_Learner):
    """LoRA (Hu et al. 2021) by PEFT: low-rank changes beside the attention's linear layers; α is twice the rank.

    The layers go into a structural copy, so the shared model stays as it is and no weight is there twice.
    """

    def __init__(self, base: BaseModel, *, rank: int, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        targets, said = lora_targets(base)
        kind = "SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM"
        self.config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets, task_type=kind, bias="none",
        )
        copied = structural_copy(base)
        with seeded(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")     # PEFT sets fan_in_fan_out by itself for GPT-2's layers, and says so
            inject_adapter_in_model(self.config, copied.module)
        copied.module.eval()
        # PEFT gives the layers the base model's dtype, in which small steps would be lost
        learned = {name: p for name, p in copied.module.named_parameters() if p.requires_grad}
        for parameter in learned.values():
            parameter.data = parameter.data.float()
        super().__init__(copied, learned, f"LoRA of rank {rank} in {said}")
        self._nothing = torch.zeros(0, base.hidden_size, device=base.device)

    def lead(self) -> torch.Tensor:
        return self._nothing


class FullTuning(_Learner):
    """Full fine-tuning: a float32 copy of the model, of which every weight learns, embeddings included."""

    def __init__(self, base: BaseModel) -> None:
        copied = trainable_copy(base)
        learned = dict(copied.module.named_parameters())
        count = sum(parameter.numel() for parameter in learned.values())
        super().__init__(copied, learned, f"full fine-tuning of a copy in float32: {count:,} weights")
        self._nothing = torch.zeros(0, base.hidden_size, device=base.device)

    def lead(self) -> torch.Tensor:
        return self._nothing


def build_method(config: TrainConfig, base: BaseModel, prompt: torch.Tensor) -> Method:
    """The method that the settings name, at its start; prompt: [P, H], where a soft prompt would start.

    Raises UserError when the model does not allow it, or there is too little memory for it.
    """
    if config.method == "full":
        check_memory(base, optimizer=config.optimizer)
    return _method(config, base, prompt)


def restored_method(config: TrainConfig, base: BaseModel, tensors: Mapping[str, np.ndarray]) -> Method:
    """The method of a run that has ended, with what it learned (`Method.tensors`), for use.

    Raises UserError when the tensors are those of other settings, or there is too little memory.
    """
    if config.method == "full":
        check_memory(base, optimizer=None)
    method = _method(config, base, torch.zeros(config.virtual_tokens, base.hidden_size))
    try:
        method.restore(tensors)
    except ValueError as error:
        raise UserError(f"What the run has learned does not fit its model ({error}). Train it again.") from None
    return method


def _method(config: TrainConfig, base: BaseModel, prompt: torch.Tensor) -> Method:
    if config.method == "prompt":
        return SoftPrompt(base, prompt)
    if config.method == "p_tuning":
        return PTuning(base, length=config.virtual_tokens, seed=config.seed)
    if config.method == "prefix":
        return PrefixTuning(base, prompt)
    if config.method == "lora":
        return Lora(base, rank=config.lora_rank, seed=config.seed)
    return FullTuning(base)


def joined(leads: Sequence[Lead]) -> torch.Tensor | Prefix:
    """The leads of runs that share a model pass: prompts [K, P, H], or K prefixes."""
    prefixes = [lead for lead in leads if isinstance(lead, Prefix)]
    if prefixes:
        return Prefix(torch.cat([prefix.keys_values for prefix in prefixes]))
    return torch.stack([lead for lead in leads if isinstance(lead, torch.Tensor)])


def lora_targets(base: BaseModel) -> tuple[Any, str]:
    """(the layers that LoRA changes, as PEFT takes them, the same in words).

    PEFT's choice for the architecture where it has one, else every linear layer of the attention. Raises UserError
    for a model without attention.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES

    kind = str(base.module.config.model_type)
    names = [name for name, _ in base.module.named_modules()]
    if chosen := CHOICES.get(kind):
        is_there = isinstance(chosen, str) or any(name.split(".")[-1] in chosen for name in names)
        if is_there:
            return chosen, f"{chosen if isinstance(chosen, str) else ', '.join(chosen)} (PEFT's choice for {kind})"
    found = sorted({
        inner.split(".")[-1]
        for name, module in base.module.named_modules() if "attention" in type(module).__name__.lower()
        for inner, part in module.named_modules()
        if inner and (isinstance(part, torch.nn.Linear) or type(part).__name__ == "Conv1D")
    })
    if not found:
        raise UserError(
            f"Model {base.name!r} has no linear layers in an attention that LoRA could change. "
            "Choose the method prompt, or another model."
        )
    return found, f"{', '.join(found)} (all linear layers of the attention)"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules that draw their start from torch's global generator draw it from this seed; it is put back after.

    One thread at a time, as all share that generator: a page's preflight must not change what a run starts with.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy on the CPU in float32."""
    return tensor.detach().float().cpu().numpy().copy()
