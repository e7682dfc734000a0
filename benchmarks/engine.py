# ruff: noqa: E402  (the environment must be prepared before torch is imported)
"""Speed of prompt training against the loop of PEFT's causal prompt-tuning example.

    python benchmarks/engine.py [--shape bundled|gpt2|bloomz-560m] [--virtual-tokens 8] [--repeats 7] [--json FILE]

Same texts, same initial prompt, AdamW, batch 8, fp32, interleaved in one process. PEFT's loop pads to 64 on the
left, as the example does; beside it PEFT with dynamic padding, so that the gain is not only padding. Medians.
Shapes other than the bundled model have random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softprompt_core.environment import prepare_environment

prepare_environment()

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from softprompt_core.config import TrainConfig
from softprompt_core.data import load_task
from softprompt_core.layouts import batch_losses
from softprompt_core.models import BaseModel, load_model, load_tokenizer
from softprompt_core.plans import Row
from softprompt_core.self_check import choose_layout
from softprompt_core.tokenising import tokenise

BATCH, PADDED = 8, 64
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2"},
    "bloomz-560m": {
        "model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250_880,
    },
    "qwen-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="bundled", choices=("bundled", *SHAPES))
    parser.add_argument("--virtual-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.shape, length=options.virtual_tokens, repeats=options.repeats, device=options.device)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(shape: str, *, length: int, repeats: int, device: str) -> dict[str, Any]:
    """Median seconds a step of each loop, and how many times faster ours is."""
    base = model_of(shape, device=device)
    batches = batches_of_rows()
    start = torch.randn(length, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.02
    choice = choose_layout(base, start[None].to(base.device), [batches[0]], longest_tokens=128)
    steps = {
        "ours": our_step(base, start, batches, choice.name),
        "peft_padded_64": peft_step(base, start, batches, dynamic=False),
        "peft_dynamic_padding": peft_step(base, start, batches, dynamic=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "shape": shape, "virtual_tokens": length, "batch": BATCH, "device": str(base.device), "dtype": str(base.dtype),
        "layout": choice.name, "threads": torch.get_num_threads(), "repeats": repeats,
        "machine": platform.processor() or platform.machine(), "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__, "python": sys.version.split()[0],
        "seconds_per_step": {name: round(value, 4) for name, value in medians.items()},
        "times_faster_than_peft": round(medians["peft_padded_64"] / medians["ours"], 2),
        "times_faster_than_peft_with_dynamic_padding": round(medians["peft_dynamic_padding"] / medians["ours"], 2),
    }


def model_of(shape: str, *, device: str) -> BaseModel:
    """The bundled model, or one of the shape with random weights."""
    if shape == "bundled":
        return load_model("bundled", device=device, dtype="fp32")
    config = AutoConfig.for_model(**copy.deepcopy(SHAPES[shape]))
    module = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False).to(device)
    weight = module.get_input_embeddings().weight
    return BaseModel(
        name=shape, module=module, tokenizer=load_tokenizer("bundled"), device=torch.device(device),
        dtype=torch.float32, hidden_size=weight.shape[1], vocab_size=weight.shape[0], context=None, revision="random",
    )


def batches_of_rows() -> list[list[Row]]:
    """Batches of bundled messages with their labels, in the bundled tokenizer's ids."""
    config = TrainConfig()
    tokens = tokenise(load_task(config), load_tokenizer("bundled"), config, context=PADDED)
    rows = [Row(e.context, (tokens.label_ids[e.label],)) for e in tokens.splits["train"]]
    return [rows[i:i + BATCH] for i in range(0, 10 * BATCH, BATCH)]


def our_step(base: BaseModel, start: torch.Tensor, batches: list[list[Row]], layout: Any) -> Callable[[], None]:
    prompt = torch.nn.Parameter(start.clone().to(base.device))
    optimizer = torch.optim.AdamW([prompt], lr=0.03)
    order = endless(batches)

    def step() -> None:
        losses, _ = batch_losses(base, prompt[None], [next(order)], layout=layout)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_step(base: BaseModel, start: torch.Tensor, batches: list[list[Row]], *, dynamic: bool) -> Callable[[], None]:
    """One step of the example's loop: left padding, `model(**batch).loss`, backward, AdamW."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(start))
    model = get_peft_model(copy.copy(base.module), config)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(start)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.03)
    order = endless(batches)

    def step() -> None:
        model(**padded(next(order), base.device, dynamic=dynamic)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def padded(rows: list[Row], device: torch.device, *, dynamic: bool) -> dict[str, torch.Tensor]:
    sequences = [([*r.context, *r.continuations[0]], len(r.context)) for r in rows]
    width = max(len(ids) for ids, _ in sequences) if dynamic else max(PADDED, *(len(ids) for ids, _ in sequences))
    ids, mask, labels = [], [], []
    for sequence, context in sequences:
        gap = width - len(sequence)
        ids.append([1] * gap + sequence)
        mask.append([0] * gap + [1] * len(sequence))
        labels.append([-100] * (gap + context) + sequence[context:])
    return {
        "input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device),
        "labels": torch.tensor(labels, device=device),
    }


def endless(batches: list[list[Row]]) -> Iterator[list[Row]]:
    while True:
        yield from batches


if __name__ == "__main__":
    main()
