"""Checkpoints of a training run: weights and optimiser state in safetensors, progress in JSON."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path,
    model: LlamaForCausalLM,
    optimisers: dict[str, torch.optim.Optimizer],
    progress: dict[str, float],
) -> None:
    """Write everything needed to resume to `folder`, aside and then renamed."""
    # the tied output head is the embedding table under a second name
    tensors = {f"model/{name}": weight.detach().cpu().contiguous() for name, weight in model.named_parameters()}
    for kind, optimiser in optimisers.items():
        for name, parameter in parameters_by_name(optimiser).items():
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{kind}/{name}/{key}"] = value.detach().cpu().contiguous()
    aside = folder / f"{CHECKPOINT}.partial"
    save_file(tensors, aside, metadata={"progress": json.dumps(progress)})
    aside.rename(folder / CHECKPOINT)


def load_checkpoint(
    folder: Path, model: LlamaForCausalLM, optimisers: dict[str, torch.optim.Optimizer]
) -> dict[str, float]:
    """Load the checkpoint in `folder` into model and optimisers; return its progress, {} if there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return {}
    tensors = load_file(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"model/{name}"])
    for kind, optimiser in optimisers.items():
        for name, parameter in parameters_by_name(optimiser).items():
            prefix = f"{kind}/{name}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if state:
                # Adam counts steps in a tensor that stays on the CPU unless fused
                optimiser.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["progress"])


def parameters_by_name(optimiser: torch.optim.Optimizer) -> dict[str, torch.nn.Parameter]:
    """Return {name: parameter} of an optimiser that was built from named parameters."""
    return {
        name: parameter
        for group in optimiser.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
