# ruff: noqa: E402  (the environment must be prepared before torch is imported)
"""Speed and memory of prompt training against the loop of PEFT's causal prompt-tuning example.

    python benchmarks/engine.py [--quick] [--only bundled] [--device cpu] [--output benchmarks/results]

Same texts, same initial prompt, AdamW, batch 8, interleaved in one process, medians. PEFT's loop is float32 and pads to
64 on the left, as the example does; beside it the same loop padded to the batch's longest row, so that the gain is
not only padding, and for bfloat16 the loop in bfloat16. Floor: the model's own forward pass over as many tokens as
ours computes; an ideal step takes twice that. Memory: growth of the process over the loaded model, in a process
of its own. Shapes other than the bundled model have random weights: speed does not depend on them.

Prints a table, writes JSON with date and machine, and ends with 1 where a figure is more than 10 % short of its goal.
On a GPU it measures the larger shapes in bfloat16, packed against the cached prefix.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from softprompt_core.models import BaseModel, choose_device, load_model, load_tokenizer
from softprompt_core.plans import LayoutName, Row
from softprompt_core.self_check import choose_layout
from softprompt_core.tokenising import tokenise

BATCH, PADDED = 8, 64
SLACK = 0.9
"""A goal counts as met from this part of it on: machines vary."""
TURNS = 3
"""Times that the loops of one case take turns."""
MEMORY_GOAL = 3.0
"""PEFT's growth of memory over ours, on bloomz's shape."""
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2"},
    "bloomz-560m": {
        "model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250_880,
    },
    "qwen-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True,
    },
    "llama-1b": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
}
Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One line of the table: a model, P, the dtype of our weights, and how many times faster it should be."""

    shape: str
    virtual_tokens: int
    dtype: str = "fp32"
    goal: float | None = None
    repeats: int = 9


CPU_CASES = (
    Case("bundled", 8, goal=3.0, repeats=25), Case("bundled", 20, repeats=25),
    Case("bundled", 100, goal=4.5, repeats=15),
    Case("gpt2", 8, goal=3.5, repeats=7), Case("gpt2", 8, "bf16", goal=7.0, repeats=7),
    Case("bloomz-560m", 8, goal=4.0, repeats=6), Case("bloomz-560m", 8, "bf16", goal=7.0, repeats=6),
)
GPU_CASES = tuple(
    Case(shape, length, "bf16", repeats=15) for shape in ("bloomz-560m", "qwen-0.5b", "llama-1b") for length in (8, 100)
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--quick", action="store_true", help="the bundled model, a few steps, no goals: does it run?")
    parser.add_argument("--output", type=Path, help="folder for the JSON file")
    parser.add_argument("--memory", nargs=3, metavar=("SHAPE", "DTYPE", "LOOP"), help="used by the script itself")
    options = parser.parse_args()
    device = choose_device(options.device)
    if options.memory:
        print(json.dumps(grown_memory(*options.memory, device=device)))
        return 0
    cases = [case for case in (CPU_CASES if device.type == "cpu" else GPU_CASES) if options.only in case.shape]
    if options.quick:
        cases = [replace(case, repeats=3, goal=None) for case in (CPU_CASES[0], CPU_CASES[2])]
    result = {**about_the_machine(device), **measure_all(cases, device, is_quick=options.quick)}
    result["short_of_goal"] = short_of_goal(result)
    print("\n".join(table(result)))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"engine-{device.type}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["short_of_goal"] else 0


def measure_all(cases: list[Case], device: torch.device, *, is_quick: bool) -> dict[str, Any]:
    """Speed of every case, prompts together on the first model, memory on bloomz's shape."""
    speed, together = [], []
    for shape in dict.fromkeys(case.shape for case in cases):
        base = model_of(shape, device=device)
        for case in (case for case in cases if case.shape == shape):
            if case.dtype == "bf16" and device.type == "cpu" and not has_bfloat16():
                continue
            speed.append(measure(case, base))
            say(f"{shape} P={case.virtual_tokens} {case.dtype}: {speed[-1]['times_faster']} times")
        if shape in ("bundled", "llama-1b"):
            counts = (4,) if is_quick else (4, 8, 16)
            together = [prompts_together(base, k, repeats=3 if is_quick else 9) for k in counts]
        del base
        gc.collect()
    memory = []
    if any(case.shape == "bloomz-560m" for case in cases):
        dtypes = [case.dtype for case in cases if case.shape == "bloomz-560m"]
        memory = [measure_memory("bloomz-560m", dtype, device) for dtype in dict.fromkeys(dtypes)]
    return {"speed": speed, "prompts_together": together, "memory": memory}


# ------------------------------------------------------------------- speed


def measure(case: Case, base: BaseModel) -> dict[str, Any]:
    """Median seconds a step of each loop, and how many times faster ours is; base: the model in float32."""
    ours = in_dtype(base, case.dtype)
    batches = batches_of_rows()
    start = torch.randn(case.virtual_tokens, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.02
    prompts = start[None].to(base.device)
    choice = choose_layout(ours, prompts, [batches[0]], longest_tokens=PADDED + case.virtual_tokens)
    steps = {
        "ours": our_step(ours, start, batches, choice.name),
        "peft": peft_step(base, start, batches, dynamic=False),
        "peft_dynamic_padding": peft_step(base, start, batches, dynamic=True),
        "floor": floor_step(ours, prompts, batches, choice.name),
    }
    if case.dtype != "fp32":
        steps["peft_same_dtype"] = peft_step(ours, start, batches, dynamic=False)
    if base.device.type != "cpu":
        others: tuple[LayoutName, ...] = ("packed", "cached")
        steps |= {name: our_step(ours, start, batches, name) for name in others}
    seconds = interleaved(steps, repeats=case.repeats, device=base.device)
    return {
        "shape": case.shape, "virtual_tokens": case.virtual_tokens, "dtype": case.dtype, "goal": case.goal,
        "layout": choice.name, "layout_reason": choice.reason, "repeats": case.repeats,
        "milliseconds": {name: round(1000 * value, 2) for name, value in seconds.items()},
        "times_faster": round(seconds["peft"] / seconds["ours"], 2),
        "times_faster_than_dynamic_padding": round(seconds["peft_dynamic_padding"] / seconds["ours"], 2),
        "step_over_twice_floor": round(seconds["ours"] / (2 * seconds["floor"]), 2),
    }


def interleaved(steps: dict[str, Step], *, repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each step.

    The loops take turns of a few steps each; the first of a turn is not counted, for it pays for memory that the loop
    before it gave back.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    each = math.ceil(repeats / TURNS)
    for name, step in list(steps.items()) * TURNS:
        for i in range(1 + each):
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in found.items()}


def our_step(base: BaseModel, start: torch.Tensor, batches: list[list[Row]], layout: LayoutName) -> Step:
    prompt = torch.nn.Parameter(start.clone().to(base.device))
    optimizer = torch.optim.AdamW([prompt], lr=0.03)
    order = endless(batches)

    def step() -> None:
        losses, _ = batch_losses(base, prompt[None], [next(order)], layout=layout)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_step(base: BaseModel, start: torch.Tensor, batches: list[list[Row]], *, dynamic: bool) -> Step:
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


def floor_step(base: BaseModel, prompts: torch.Tensor, batches: list[list[Row]], layout: LayoutName) -> Step:
    """The model's own layers, forwards only, over as many tokens as our step computes; one line, no padding."""
    with torch.no_grad():
        counts = [batch_losses(base, prompts, [rows], layout=layout)[1].tokens for rows in batches]
    order = endless([torch.zeros(1, count, base.hidden_size, device=base.device) for count in counts])

    def step() -> None:
        with torch.no_grad():
            base.module.base_model(inputs_embeds=next(order).to(base.dtype), use_cache=False)

    return step


def prompts_together(base: BaseModel, k: int, *, repeats: int) -> dict[str, Any]:
    """K prompts in one model pass against K passes of one prompt; a batch of 8 each."""
    own = in_dtype(base, "fp32" if base.device.type == "cpu" else "bf16")
    start = torch.randn(k, 8, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.02
    prompts = torch.nn.Parameter(start.to(base.device))
    batches = (batches_of_rows() * 2)[:k]

    def together() -> None:
        batch_losses(own, prompts, batches, layout="packed")[0].sum().backward()

    def one_by_one() -> None:
        for i in range(k):
            batch_losses(own, prompts[i:i + 1], batches[i:i + 1], layout="packed")[0].sum().backward()

    seconds = interleaved({"together": together, "sequence": one_by_one}, repeats=repeats, device=base.device)
    say(f"{k} prompts together: {seconds['sequence'] / seconds['together']:.2f} times")
    return {
        "shape": base.name, "prompts": k, "goal": 1.0 if base.device.type == "cpu" else 4.0 if k == 8 else None,
        "milliseconds": {name: round(1000 * value, 2) for name, value in seconds.items()},
        "times_faster": round(seconds["sequence"] / seconds["together"], 2),
    }


# ------------------------------------------------------------------ memory


def measure_memory(shape: str, dtype: str, device: torch.device) -> dict[str, Any]:
    """Megabytes that each loop adds to the loaded model, each in its own process; PEFT's always in float32."""
    grown = {}
    for loop, weights in (("ours", dtype), ("peft", "fp32")):
        command = [sys.executable, __file__, "--device", str(device), "--memory", shape, weights, loop]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[loop] = json.loads(done.stdout.strip().splitlines()[-1])
    say(f"{shape} {dtype}: memory grows by {grown['ours']} MB, PEFT's by {grown['peft']} MB")
    return {
        "shape": shape, "dtype": dtype, "virtual_tokens": 8, "goal": MEMORY_GOAL, "megabytes": grown,
        "times_less": round(grown["peft"] / max(1, grown["ours"]), 2),
    }


def grown_memory(shape: str, dtype: str, loop: str, *, device: torch.device) -> int:
    """Megabytes at the peak of three steps, over the loaded model."""
    base = in_dtype(model_of(shape, device=device), dtype)
    batches = batches_of_rows()
    start = torch.randn(8, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.02
    if loop == "ours":
        step = our_step(base, start, batches, "packed")
    else:
        step = peft_step(base, start, batches, dynamic=False)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run(step, times=3)
        return round((torch.cuda.max_memory_allocated(device) - before) / 1e6)
    before, seen, is_done = resident_bytes(), [0], threading.Event()

    def watch() -> None:        # the process's own record of its peak holds that of loading
        while not is_done.wait(0.002):
            seen.append(resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(step, times=3)
    is_done.set()
    watcher.join()
    return round((max(seen) - before) / 1e6)


def run(step: Step, *, times: int) -> None:
    for _ in range(times):
        step()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# ------------------------------------------------------------------ models


def model_of(shape: str, *, device: torch.device) -> BaseModel:
    """The bundled model, or one of the shape with random weights, in float32."""
    if shape == "bundled":
        return load_model("bundled", device=str(device), dtype="fp32")
    config = AutoConfig.for_model(**copy.deepcopy(SHAPES[shape]))
    module = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False).to(device)
    weight = module.get_input_embeddings().weight
    bundled = load_model("bundled", device=str(device), dtype="fp32")
    return replace(
        bundled, name=shape, module=module, tokenizer=load_tokenizer("bundled"), device=device, dtype=torch.float32,
        hidden_size=weight.shape[1], vocab_size=weight.shape[0], context=None, revision="random",
    )


def in_dtype(base: BaseModel, dtype: str) -> BaseModel:
    """The model with its weights in the dtype; the same one where they are already."""
    if DTYPES[dtype] == base.dtype:
        return base
    return replace(base, module=copy.deepcopy(base.module).to(DTYPES[dtype]), dtype=DTYPES[dtype])


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def batches_of_rows() -> list[list[Row]]:
    """Batches of bundled messages with their labels, in the bundled tokenizer's ids."""
    config = TrainConfig()
    tokens = tokenise(load_task(config), load_tokenizer("bundled"), config, context=PADDED)
    rows = [Row(e.context, (tokens.label_ids[e.label],)) for e in tokens.splits["train"]]
    return [rows[i:i + BATCH] for i in range(0, 10 * BATCH, BATCH)]


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


def endless(items: list[Any]) -> Iterator[Any]:
    while True:
        yield from items


# ------------------------------------------------------------------ report


def about_the_machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "date": time.strftime("%Y-%m-%d"), "device": device.type, "machine": name, "threads": torch.get_num_threads(),
        "batch": BATCH, "torch": torch.__version__, "python": platform.python_version(),
    }


def short_of_goal(result: dict[str, Any]) -> list[str]:
    """What is more than a tenth short of its goal, in words."""
    figures = [
        (f"{f['shape']} P={f['virtual_tokens']} {f['dtype']}", f["times_faster"], f["goal"]) for f in result["speed"]
    ]
    figures += [(f"K={f['prompts']} together", f["times_faster"], f["goal"]) for f in result["prompts_together"]]
    figures += [(f"memory of {f['shape']} {f['dtype']}", f["times_less"], f["goal"]) for f in result["memory"]]
    return [f"{name}: {found} of {goal}" for name, found, goal in figures if goal and found < SLACK * goal]


def table(result: dict[str, Any]) -> list[str]:
    """The figures as lines of a Markdown table."""
    head = "model | P | weights | layout | ms | PEFT ms | PEFT dynamic ms | × PEFT | goal | × dynamic | ÷ 2 floors"
    lines = [
        f"{result['machine']}, {result['threads']} threads, torch {result['torch']}, {result['date']}", "",
        f"| {head} |", "|" + "---|" * (head.count("|") + 1),
    ]
    for f in result["speed"]:
        ms = f["milliseconds"]
        cells = [
            f["shape"], f["virtual_tokens"], f["dtype"], f["layout"],
            ms["ours"], ms["peft"], ms["peft_dynamic_padding"], f["times_faster"], f["goal"] or "",
            f["times_faster_than_dynamic_padding"], f["step_over_twice_floor"],
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        extra = [f"{name} {ms[name]} ms" for name in ("peft_same_dtype", "packed", "cached") if name in ms]
        lines += [f"| | | | | {', '.join(extra)} |" + " |" * 6] if extra else []
    lines.append("")
    for f in result["prompts_together"]:
        said = f"{f['prompts']} prompts in one pass of {f['shape']}"
        lines.append(f"{said}: {f['times_faster']} × as fast as in sequence")
    for f in result["memory"]:
        grown = f["megabytes"]
        lines.append(f"{f['shape']} {f['dtype']}: memory grows by {grown['ours']} MB, PEFT's by {grown['peft']} MB")
    lines += [f"SHORT OF GOAL {text}" for text in result["short_of_goal"]]
    return lines


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
