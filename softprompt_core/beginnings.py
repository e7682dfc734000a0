"""How runs begin: each at its start or its checkpoint, the layout that was checked, and what the log says of it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from softprompt_core.config import TrainConfig
from softprompt_core.methods import build_method, joined
from softprompt_core.models import BaseModel, embedding_table
from softprompt_core.optimisers import build_optimizer
from softprompt_core.plans import Row
from softprompt_core.recomputing import recomputing
from softprompt_core.records import (
    Checkpoint,
    FloatArray,
    LogRecord,
    Record,
    ResumeRecord,
    Snapshot,
    StartRecord,
)
from softprompt_core.running import Order, Running
from softprompt_core.self_check import Choice, choose_layout
from softprompt_core.starts import run_facts, starting_prompt, written_prompt
from softprompt_core.tokenising import TokenisedTask, text_token_ids

VALIDATION_ROWS = 500
"""Validation rows that training looks at, at most."""


def start_runs(
    runs: Mapping[str, TrainConfig], base: BaseModel, tokens: TokenisedTask, starts: Mapping[str, FloatArray]
) -> list[Running]:
    """Every run before its first step."""
    table = embedding_table(base)
    return [_start_run(run_id, config, base, tokens, table, starts) for run_id, config in runs.items()]


def _start_run(
    run_id: str, config: TrainConfig, base: BaseModel, tokens: TokenisedTask, table: torch.Tensor,
    starts: Mapping[str, FloatArray],
) -> Running:
    prompt, init_ids = starting_prompt(config, base, tokens, table, start=starts.get(run_id))
    method = build_method(config, base, prompt)
    if config.gradient_checkpointing:       # of the method's own model, whose layers may be others
        method.base = recomputing(method.base)
    rows = len(tokens.splits["train"])
    return Running(
        run_id=run_id, config=config, method=method, optimizer=build_optimizer(config, method.parameters()),
        order=Order(rows, batch_size=config.batch_size * config.accumulation, seed=config.seed), rows_in_epoch=rows,
        written=written_prompt(config, tokens), init_ids=init_ids if config.method in ("prompt", "prefix") else None,
        made_of={"data": tokens.task.fingerprint, "model": f"{config.model} {base.revision}"},
    )


def begin(run: Running, saved: Checkpoint | None, base: BaseModel, tokens: TokenisedTask) -> Iterator[Record]:
    """The first records of a run: it starts, goes on from a checkpoint, or starts where another run was."""
    parent = saved.facts.get("parent") if saved else None
    if saved and not parent:
        run.restore(saved)
        yield ResumeRecord(run.run_id, run.step)
        yield LogRecord(run.run_id, "info", f"resumed after step {run.step}")
        if saved.facts["steps"] != run.config.steps:
            text = (
                f"now {run.config.steps} steps in all instead of {saved.facts['steps']}: from here on the learning "
                "rate is that of a run of this length"
            )
            yield LogRecord(run.run_id, "info", text)
        return
    if saved and parent:
        run.begin_at(saved)
        run.init_ids = None
    facts = run_facts(run.config, base, tokens, init_ids=run.init_ids)
    yield StartRecord(run.run_id, {**facts, "parent": parent} if parent else facts)
    if run.has_prompt:
        yield Snapshot(run.run_id, 0, run.prompt())
    if saved and parent:
        kept = " with its optimiser's state" if "optimizer" in saved.facts else ""
        text = f"forked from run {parent['run_id']} after step {parent['step']}{kept}"
        yield LogRecord(run.run_id, "info", f"{text}; seed {run.config.seed}")
        return
    yield from _about_the_start(run, base, tokens)


def choose(tokens: TokenisedTask, run: Running) -> Choice:
    """The layout, checked on the first rows of the first run.

    Two rows at least, each with two labels: rows beside rows and labels beside labels are what packing could get
    wrong, and scoring packs both even where training takes one row a step.
    """
    examples, labels = tokens.splits["train"], tokens.label_ids
    size = min(8, max(2, run.config.batch_size))
    order = Order(len(examples), batch_size=size, seed=run.config.seed)
    batch = [examples[i] for i in order.next()]
    rows = [Row(e.context, (labels[e.label], labels[(e.label + 1) % len(labels)])) for e in batch]
    longest = tokens.longest_tokens + run.config.virtual_tokens
    return choose_layout(
        run.method.base, joined([run.method.lead()]), [rows], longest_tokens=longest,
        peft_positions=run.config.peft_positions,
    )


def about_the_data(runs: Mapping[str, TrainConfig], tokens: TokenisedTask) -> Iterator[LogRecord]:
    task = tokens.task
    sizes = ", ".join(f"{len(rows)} {split}" for split, rows in tokens.splits.items())
    for run_id in runs:
        yield LogRecord(run_id, "info", f"data {task.name}: {sizes} rows; labels {', '.join(task.labels)}")
        if len({label.casefold() for label in task.labels}) < len(task.labels):
            text = "some labels differ only in upper and lower case and count as different classes"
            yield LogRecord(run_id, "warning", text)
        if tokens.repeated_rows:
            text = f"{tokens.repeated_rows} validation or test rows also stand in train: figures will look too good"
            yield LogRecord(run_id, "warning", text)
        if len(tokens.splits["validation"]) > VALIDATION_ROWS:
            yield LogRecord(run_id, "info", f"validation looks at {VALIDATION_ROWS} of its rows, drawn once")
        if task.dropped_rows:
            yield LogRecord(run_id, "warning", f"{task.dropped_rows} rows without text or label were left out")
        if tokens.cut_rows:
            yield LogRecord(run_id, "warning", f"{tokens.cut_rows} rows were too long and lost the start of their text")


def _about_the_start(run: Running, base: BaseModel, tokens: TokenisedTask) -> Iterator[LogRecord]:
    config = run.config
    where = f"{base.name} on {base.device} in {str(base.dtype).removeprefix('torch.')}"
    start = f"start: {config.init}, P = {config.virtual_tokens}"
    what = start if config.method == "prompt" else run.method.about
    yield LogRecord(run.run_id, "info", f"{what}; seed {config.seed}; {where}")
    if config.init != "text" or config.method not in ("prompt", "prefix"):
        return
    written = len(text_token_ids(written_prompt(config, tokens), base.tokenizer))
    if written != config.virtual_tokens:
        how = "cut" if written > config.virtual_tokens else "repeated"
        text = f"the initial text has {written} tokens and was {how} to {config.virtual_tokens}"
        yield LogRecord(run.run_id, "info", text)
