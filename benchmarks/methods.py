# ruff: noqa: E402  (the environment must be prepared before torch is imported)
"""The field's methods side by side on real data: one table, three seeds each.

    python benchmarks/methods.py --data-root DIR [--tasks sst2,trec] [--arms text,random,lora] [--json FILE]

DIR holds a folder a task with train.csv and test.csv. Arms without training (majority, no prompt, hand-written
prompt, four examples) stand beside soft prompts from three starts, p-tuning, prefix tuning, LoRA and full
fine-tuning; the same steps, batch size and batch order for all. With --json every finished arm is kept at once,
and the same command goes on where it stopped.

    python benchmarks/methods.py --data-root DIR --cross-validate [--json FILE]

trains the preset `peft-example` on twitter_complaints in five folds, and PEFT's own loop from the same start on the
same batches beside it: how far the losses of the two lie apart, and the accuracy on the rows left out.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from softprompt_core.environment import prepare_environment

prepare_environment()

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from sklearn.model_selection import StratifiedKFold

from softprompt_core.config import METHOD_LR, TrainConfig, parse_config
from softprompt_core.data import load_task
from softprompt_core.experiments import mean_interval
from softprompt_core.models import load_model
from softprompt_core.presets import load_preset
from softprompt_core.records import EndRecord, Snapshot, StepRecord
from softprompt_core.running import Order
from softprompt_core.schedules import learning_rate
from softprompt_core.tokenising import Example, TokenisedTask, tokenise
from softprompt_core.training import train

ARMS: dict[str, dict[str, Any]] = {
    "text": {"init": "text"}, "sampled_vocab": {"init": "sampled_vocab"}, "random": {"init": "random"},
    "p_tuning": {"method": "p_tuning"}, "prefix": {"method": "prefix"}, "lora": {"method": "lora"},
    "full": {"method": "full"},
}
UNTRAINED = ("majority", "no_prompt", "hand_written", "few_shot")
SHOTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--tasks", default="sst2,trec")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cross-validate", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.cross_validate:
        result = cross_validate(options.data_root / "twitter_complaints" / "train.csv", model=options.model)
        print(json.dumps(result, indent=2))
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return
    result = _kept(options.json) or {"tasks": {}}
    result |= about(options.model, steps=options.steps, seeds=options.seeds)
    for task in options.tasks.split(","):
        found = result["tasks"].setdefault(task, {})
        for arm in options.arms.split(","):
            if arm not in found:
                values = {
                    "data": str(options.data_root / task), "model": options.model, "steps": options.steps,
                    "device": options.device, "eval_every": max(1, options.steps // 3),
                    "shots": 0 if "few_shot" in found else SHOTS, **ARMS[arm],
                }
                found |= measure(arm, values, seeds=options.seeds)
                if options.json:
                    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(table(task, found))


def _kept(path: Path | None) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None


def about(model: str, *, steps: int, seeds: int) -> dict[str, Any]:
    """What the figures were measured on."""
    parameters = sum(p.numel() for p in load_model(model).module.parameters())
    return {
        "model": model, "model_parameters": parameters, "steps": steps, "seeds": seeds, "batch": 8,
        "learning_rates": METHOD_LR, "date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def measure(arm: str, values: dict[str, Any], *, seeds: int) -> dict[str, Any]:
    """One arm over its seeds, and on the way what needs no training."""
    runs = {str(seed): parse_config({**values, "seed": seed}) for seed in range(seeds)}
    ends = [record for record in train(runs) if isinstance(record, EndRecord)]
    failed = [end.reason for end in ends if end.status != "done"]
    if failed:
        raise SystemExit(f"{arm}: {failed[0]}")
    results = [end.result for end in ends]
    accuracies = [result["eval_accuracy"] for result in results]
    low, high = mean_interval(accuracies)
    found: dict[str, Any] = {arm: {
        "accuracy": statistics.mean(accuracies), "ci95_low": low, "ci95_high": high, "accuracies": accuracies,
        "macro_f1": statistics.mean(result["eval_macro_f1"] for result in results),
        "loss": statistics.mean(result["eval_loss"] for result in results),
        "trainable_parameters": results[0]["trainable_parameters"],
        "seconds": max(result["seconds"] for result in results) / (seeds if len(results) > 1 else 1),
    }}
    for source, figures in results[0]["baselines"].items():
        if source in UNTRAINED and figures:
            found[source] = {"accuracy": figures["accuracy"], "macro_f1": figures["macro_f1"]}
    return found


def table(task: str, found: dict[str, Any]) -> str:
    """The arms of one task as lines of text."""
    head = f"  {'arm':<14} {'accuracy':>9}  {'per seed':<22} {'macro-F1':>8} {'trained':>10} {'s a run':>8}"
    lines = [task, head]
    for arm in [*UNTRAINED, *ARMS]:
        if arm in found:
            figures = found[arm]
            seeds = " ".join(f"{a:.1%}" for a in figures.get("accuracies", ()))
            size = f"{figures['trainable_parameters']:,}" if "trainable_parameters" in figures else "0"
            seconds = f"{figures['seconds']:.0f}" if "seconds" in figures else ""
            line = f"  {arm:<14} {figures['accuracy']:>9.1%}  {seeds:<22} {figures['macro_f1']:>8.3f}"
            lines.append(f"{line} {size:>10} {seconds:>8}")
    return "\n".join(lines)


# ------------------------------------------------------------ cross-validation


def cross_validate(path: Path, *, model: str, folds: int = 5) -> dict[str, Any]:
    """The preset peft-example on each fold, beside PEFT's own loop from the same start on the same batches."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row["Label"] for row in rows]
    found = []
    for train_rows, test_rows in StratifiedKFold(folds, shuffle=True, random_state=0).split(rows, labels):
        with tempfile.TemporaryDirectory() as folder:
            # the example has no validation rows; the fold's test rows stand in, and nothing is selected on them
            for split, indexes in (("train", train_rows), ("validation", test_rows), ("test", test_rows)):
                _write(Path(folder) / f"{split}.csv", [rows[i] for i in indexes])
            found.append(_fold(folder, model=model))
    return {
        "preset": "peft-example", "model": model, "date": time.strftime("%Y-%m-%d"), "folds": found,
        "accuracy": statistics.mean(fold["accuracy"] for fold in found),
        "majority": statistics.mean(fold["majority"] for fold in found),
        "hand_written": statistics.mean(fold["hand_written"] for fold in found),
        "largest_loss_difference": max(fold["largest_loss_difference"] for fold in found),
        "largest_loss_difference_first_8_steps": max(fold["largest_loss_difference_first_8_steps"] for fold in found),
    }


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _fold(folder: str, *, model: str) -> dict[str, Any]:
    preset = load_preset("peft-example").settings
    config = parse_config({
        **preset, "model": model, "data": folder, "text_column": "Tweet text", "label_column": "Label",
        "peft_positions": True, "eval_every": 1_000_000,
    })
    records = list(train({"fold": config}))
    end = next(record for record in records if isinstance(record, EndRecord))
    if end.status != "done":
        raise SystemExit(end.reason)
    start = next(record.prompt for record in records if isinstance(record, Snapshot))
    ours = [record.loss for record in records if isinstance(record, StepRecord)]
    began = time.perf_counter()
    theirs = peft_losses(config, torch.from_numpy(start), steps=len(ours))
    seconds = time.perf_counter() - began
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "steps": len(ours), "accuracy": end.result["eval_accuracy"],
        "majority": end.result["baselines"]["majority"]["accuracy"],
        "hand_written": end.result["baselines"]["hand_written"]["accuracy"],
        "first_loss": ours[0], "last_loss": ours[-1], "peft_last_loss": theirs[-1],
        "largest_loss_difference": max(apart), "largest_loss_difference_first_8_steps": max(apart[:8]),
        "seconds": end.result["seconds"], "peft_seconds": seconds,
    }


def peft_losses(config: TrainConfig, start: torch.Tensor, *, steps: int) -> list[float]:
    """The loss of every step of PEFT's loop on the same model, rows and batch order."""
    base = load_model(config.model, device=config.device, dtype=config.dtype)
    tokens = tokenise(load_task(config), base.tokenizer, config, context=base.context)
    examples = tokens.splits["train"]
    model = get_peft_model(
        copy.copy(base.module), PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(start))
    )
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(start)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    order = Order(len(examples), batch_size=config.batch_size, seed=config.seed)
    config = config.model_copy(update={"steps": steps})
    losses = []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        batch = left_padded([examples[i] for i in order.next()], tokens, base.device, width=config.max_tokens)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def left_padded(
    examples: list[Example], tokens: TokenisedTask, device: torch.device, *, width: int
) -> dict[str, torch.Tensor]:
    """A batch as the example makes it: padded on the left to `width` tokens, labels only on the target."""
    targets = [tokens.label_ids[example.label] for example in examples]
    width = max(width, *(len(e.context) + len(t) for e, t in zip(examples, targets, strict=True)))
    ids, mask, labels = [], [], []
    for example, target in zip(examples, targets, strict=True):
        sequence = [*example.context, *target]
        gap = width - len(sequence)
        ids.append([0] * gap + sequence)
        mask.append([0] * gap + [1] * len(sequence))
        labels.append([-100] * (gap + len(example.context)) + list(target))
    return {
        "input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device),
        "labels": torch.tensor(labels, device=device),
    }


if __name__ == "__main__":
    main()
