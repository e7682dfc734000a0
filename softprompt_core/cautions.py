"""What about a run's settings and data is likely a slip, in sentences a person can act on."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from softprompt_core.config import METHOD_LR, TrainConfig
from softprompt_core.copies import GIGABYTE, check_memory
from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel, has_bfloat16
from softprompt_core.schedules import learning_rate
from softprompt_core.sources import quoted
from softprompt_core.tokenising import TokenisedTask

FEW_ROWS, FEW_OF_A_LABEL, FEW_TESTS = 50, 5, 50
LOPSIDED = 0.8
"""Share of one label from which on accuracy says little."""
ODD_SCALE = 5.0
"""A start so many times larger or smaller than the vocabulary's rows is off the ground the model knows."""
ODD_RATE = 30.0
"""A learning rate so many times above or below the method's usual one is likely a slip."""
ADAFACTOR_LR = 0.3
"""Lester et al. 2021; without scaling by the parameter's size a step is about the learning rate on any model."""
SHRINKS = 1.5
"""Weight decay that by itself would make a prompt so many times smaller over a run is worth a word."""
MANY_EPOCHS = 100


def about_data(config: TrainConfig, tokens: TokenisedTask, *, context: int | None) -> list[str]:
    """What the rows give cause to say; context: the most tokens that the model reads."""
    return [*_about_rows(tokens), *_about_labels(tokens), *_about_length(config, tokens, context)]


def _about_rows(tokens: TokenisedTask) -> list[str]:
    task, said = tokens.task, []
    train, test = len(tokens.splits["train"]), len(tokens.splits["test"])
    if tokens.repeated_rows:
        said.append(
            f"{tokens.repeated_rows:,} validation or test rows also stand in train, so the figures will look too good. "
            "Remove them from one side."
        )
    if task.dropped_rows:
        said.append(f"{task.dropped_rows:,} rows have no text or no label and are left out.")
    if tokens.cut_rows:
        said.append(
            f"{tokens.cut_rows:,} rows are too long and lose the start of their text. Allow longer rows if that is "
            "where the answer stands."
        )
    if train < FEW_ROWS:
        said.append(f"There are only {train} training rows: compare several seeds before believing a difference.")
    if test < FEW_TESTS:
        said.append(f"The test split has {test} rows, so one row is {1 / test:.1%} of accuracy.")
    return said


def _about_labels(tokens: TokenisedTask) -> list[str]:
    task, said = tokens.task, []
    counts = task.label_counts("train")
    rows = sum(counts.values())
    most = next(iter(counts))
    if counts[most] > LOPSIDED * rows:
        said.append(
            f"{counts[most] / rows:.0%} of the training rows have the label {quoted(most)}: always answering that is "
            "right as often. Look at macro-F1 rather than accuracy."
        )
    rare = [label for label in task.labels if counts.get(label, 0) < FEW_OF_A_LABEL]
    if rare:
        listed = ", ".join(f"{quoted(label)} ({counts.get(label, 0)})" for label in rare[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        said.append(f"Fewer than {FEW_OF_A_LABEL} training rows have the label {listed}{more}.")
    if len({label.casefold() for label in task.labels}) < len(task.labels):
        said.append("Some labels differ only in upper and lower case and count as different classes.")
    begun: dict[int, list[str]] = defaultdict(list)
    for label, ids in zip(task.labels, tokens.label_ids, strict=True):
        begun[ids[0]].append(label)
    same = [labels for labels in begun.values() if len(labels) > 1]
    if (same and len(same[0]) < len(task.labels)) or (len(same) == 1 and _differ_late(tokens)):
        listed = "; ".join(", ".join(map(quoted, labels[:4])) for labels in same[:3])
        said.append(
            f"These labels begin with the same token in the model's vocabulary: {listed}. They work, as whole labels "
            "are scored, but words that differ from the first token on are learned faster."
        )
    return said


def _differ_late(tokens: TokenisedTask) -> bool:
    """Whether all labels share their first token though they have words of their own (not a mere start token)."""
    return len({ids[0] for ids in tokens.label_ids}) == 1 and len({ids[1] for ids in tokens.label_ids}) > 1


def _about_length(config: TrainConfig, tokens: TokenisedTask, context: int | None) -> list[str]:
    length = config.virtual_tokens
    said = []
    if context is not None and length > context / 2:
        said.append(
            f"The prompt takes {length:,} of the {context:,} tokens that the model reads, and leaves "
            f"{context - length:,} for text and label."
        )
    labels = len(tokens.task.labels)
    if config.method == "prompt" and config.init == "class_labels" and labels > length:
        said.append(
            f"{labels} labels and {length} virtual tokens: only the first {length} labels take part in the start. "
            f"Use at least {labels} virtual tokens."
        )
    return said


def about_settings(config: TrainConfig, tokens: TokenisedTask) -> list[str]:
    """What the settings give cause to say; the steps of `epochs` must be known (`TrainConfig.for_rows`)."""
    rows = len(tokens.splits["train"])
    return [*_about_rate(config), *_about_decay(config), *_about_steps(config, rows)]


def _about_rate(config: TrainConfig) -> list[str]:
    if config.optimizer == "adafactor":
        usual = ADAFACTOR_LR if config.method in ("prompt", "prefix") else METHOD_LR[config.method]
    else:
        usual = METHOD_LR[config.method]
    if usual / ODD_RATE <= config.lr <= usual * ODD_RATE:
        return []
    way, what = ("below", "hardly move") if config.lr < usual else ("above", "probably diverge")
    about = (
        f"The learning rate {config.lr:g} is far {way} what {config.optimizer} is used with for the method "
        f"{config.method} (about {usual:g}): the run will {what}."
    )
    if config.optimizer == "adafactor" and config.lr < usual:
        about += " Adafactor moves every number by about the learning rate a step, however large the gradient is."
    return [about]


def _about_decay(config: TrainConfig) -> list[str]:
    if not config.weight_decay or config.method != "prompt":
        return []
    if config.optimizer == "adafactor":
        total = config.steps * config.weight_decay
    else:
        every = max(1, config.steps // 1_000)      # rates change slowly: a thousand of them tell the sum
        rates = [learning_rate(config, step) for step in range(1, config.steps + 1, every)]
        total = config.weight_decay * sum(rates) * config.steps / len(rates)
    if total < math.log(SHRINKS):
        return []
    how = f"{math.exp(total):.3g} times" if total < math.log(1_000) else "to nothing"
    return [
        f"Weight decay {config.weight_decay:g} by itself would shrink the prompt {how} over this run, also where no "
        "text asks for it. 0 leaves it where it is."
    ]


def _about_steps(config: TrainConfig, rows: int) -> list[str]:
    said = []
    a_step = config.batch_size * config.accumulation
    epochs = config.steps / math.ceil(rows / a_step)
    if a_step > rows:
        said.append(
            f"A step asks for {a_step:,} rows and there are {rows:,}: every step is the whole training split. "
            "A smaller batch size learns more in the same time."
        )
    if epochs < 1:
        said.append(
            f"{config.steps:,} steps see only {epochs:.0%} of the training rows. Give more steps, or 1 epoch or more."
        )
    elif epochs > MANY_EPOCHS and config.patience is None:
        said.append(
            f"The run goes through the training rows {epochs:.0f} times. With patience it ends when validation no "
            "longer gets better."
        )
    if config.evaluation_interval > config.steps:
        said.append(
            f"The validation split is looked at every {config.evaluation_interval:,} steps, but there are "
            f"{config.steps:,}: only the last prompt can be selected."
        )
    return said


def about_start(config: TrainConfig, start: torch.Tensor, table: torch.Tensor) -> list[str]:
    """What a prompt's start [P, H] gives cause to say beside the vocabulary's rows [V, H]."""
    usual, ours = float(table.norm(dim=1).median()), float(start.norm(dim=1).median())
    if not usual or 1 / ODD_SCALE <= ours / usual <= ODD_SCALE:
        return []
    is_longer = ours > usual
    how = f"{ours / usual:.3g} times as long as" if is_longer else f"{usual / max(ours, 1e-30):.3g} times shorter than"
    instead = "" if config.init == "from_run" else " Init text, sampled_vocab or random start where words are."
    return [f"The start ({config.init}) has rows {how} the vocabulary's, off the ground that the model knows.{instead}"]


def about_device(config: TrainConfig, base: BaseModel) -> list[str]:
    """What dtype, device and memory give cause to say."""
    said = []
    if base.dtype == torch.bfloat16 and not has_bfloat16(base.device):
        said.append(
            f"This device ({base.device}) only emulates bf16, which is slow. Choose dtype "
            f"{'fp16' if base.device.type == 'cuda' else 'fp32'}, or auto."
        )
    if base.dtype == torch.float16:
        said.append(
            "In fp16 small gradients become 0 and large numbers infinite; if the loss stops being a number or does not "
            "move, choose dtype fp32" + ("." if base.device.type == "cpu" else " or bf16.")
        )
    if config.method == "full":
        weights = sum(parameter.numel() for parameter in base.module.parameters())
        try:
            check_memory(base, optimizer=config.optimizer)
        except UserError as error:
            said.append(str(error))
        else:
            each = 16 if config.optimizer == "adamw" else 8
            said.append(
                f"Full fine-tuning trains a copy of all {weights:,} weights: about {each * weights / GIGABYTE:.1f} GB "
                "beside the model, and every checkpoint is as large as the model and more."
            )
    return said
