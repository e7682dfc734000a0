"""The training loop: K prompts through one frozen model, as a generator of records.

Everyone who trains consumes this one generator: the background thread, the command line, tests. It writes
nothing; the caller decides what to keep, and answers through a `Control`.
"""

from __future__ import annotations

import importlib.metadata
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from softprompt_core import initialisers
from softprompt_core.config import PASS_SETTINGS, TrainConfig
from softprompt_core.data import (
    Example,
    TokenisedTask,
    default_prompt_text,
    load_task,
    text_token_ids,
    tokenise,
)
from softprompt_core.errors import UserError
from softprompt_core.evaluation import (
    Cancelled,
    Evaluation,
    accuracy_interval,
    document,
    evaluate,
    hard_prompt,
    majority,
)
from softprompt_core.layouts import Choice, LayoutName, Row, batch_losses, choose_layout
from softprompt_core.models import BaseModel, embedding_table, load_model
from softprompt_core.records import EndRecord, EvalRecord, LogRecord, Record, Snapshot, StartRecord, StepRecord
from softprompt_core.schedules import learning_rate
from softprompt_core.visible import token_text

LIVE_SECONDS = 2.0
TRAJECTORY_POINTS = 30
VALIDATION_ROWS = 500


class Control:
    """What a caller may ask of training while it runs; safe to use from any thread."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._everything = threading.Event()
        self._going = threading.Event()
        self._going.set()

    def stop(self, run_id: str) -> None:
        """Ends one run after its present step; its best prompt is kept."""
        self._stopped.add(run_id)
        self._going.set()

    def stop_all(self) -> None:
        self._everything.set()
        self._going.set()

    def pause(self, is_paused: bool) -> None:
        """Holds every run between two steps, or lets them go on."""
        (self._going.clear if is_paused else self._going.set)()

    def is_stopped(self, run_id: str) -> bool:
        return self._everything.is_set() or run_id in self._stopped

    def wait_while_paused(self) -> None:
        self._going.wait()


@dataclass
class _Run:
    """One prompt while it trains."""

    run_id: str
    config: TrainConfig
    prompt: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    order: Iterator[list[Example]]
    rows_in_epoch: int
    rows: int = 0
    tokens: int = 0
    step: int = 0
    loss: float = math.nan
    best_loss: float = math.inf
    best_prompt: np.ndarray | None = None
    best_step: int = 0

    def array(self) -> np.ndarray:
        return self.prompt.detach().float().cpu().numpy().copy()


def train(
    runs: Mapping[str, TrainConfig],
    *,
    control: Control | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Record]:
    """Trains every run to its end, all in one model pass a step; yields what happens as it happens.

    runs: id → settings, alike in everything that `PASS_SETTINGS` names. Each run's randomness comes from its own
    generators, so a run gives the same losses alone and in company. Raises UserError before the first step
    when the settings cannot work.
    """
    control = control or Control()
    if len({config.pass_settings() for config in runs.values()}) != 1:
        raise UserError(
            f"Runs that train together must agree on {', '.join(PASS_SETTINGS)}. Train them one after another."
        )
    first = next(iter(runs.values()))
    task = load_task(first)
    base = load_model(first.model, device=first.device, dtype=first.dtype)
    tokens = tokenise(task, base.tokenizer, first, context=base.context)
    yield from _about_the_data(runs, tokens)

    table = embedding_table(base)
    active = [_start_run(run_id, config, base, tokens, table) for run_id, config in runs.items()]
    for run in active:
        yield StartRecord(run.run_id, run_facts(run.config, base, tokens))
        yield Snapshot(run.run_id, 0, run.array())
        yield from _about_the_start(run, base, tokens)
    choice = _choose(base, tokens, active)
    for run in active:
        level: Literal["warning", "info"] = "warning" if choice.is_fallback else "info"
        yield LogRecord(run.run_id, level, f"layout {choice.name}: {choice.reason}")

    everyone, started, live = list(active), clock(), clock()
    reasons: dict[str, tuple[str, str]] = {}
    while active:
        control.wait_while_paused()
        for run in [r for r in active if control.is_stopped(r.run_id)]:
            reasons[run.run_id] = ("stopped", f"Stopped by the user after step {run.step}.")
            active.remove(run)
        if not active:
            break
        yield from _step(base, active, tokens, choice.name, seconds=lambda: clock() - started)
        for run in list(active):
            if not math.isfinite(run.loss):
                reasons[run.run_id] = ("failed", _diverged(run))
                active.remove(run)
        is_live = clock() - live >= LIVE_SECONDS
        live = clock() if is_live else live
        for run in list(active):
            yield from _look(base, run, tokens, choice.name, control, is_live=is_live)
            if run.step >= run.config.steps:
                reasons[run.run_id] = ("done", "")
                active.remove(run)

    seconds = clock() - started
    baselines = _Baselines(base, tokens, choice.name)
    for run in everyone:
        status, reason = reasons[run.run_id]
        yield from _finish(base, run, tokens, choice.name, control, baselines, status, reason, seconds)


# ---------------------------------------------------------------- one step


def _step(
    base: BaseModel, active: list[_Run], tokens: TokenisedTask, layout: LayoutName, *, seconds: Callable[[], float]
) -> Iterator[StepRecord]:
    batches = [next(run.order) for run in active]
    rows = [[Row(e.context, (tokens.label_ids[e.label],)) for e in batch] for batch in batches]
    losses, lines = batch_losses(base, torch.stack([run.prompt for run in active]), rows, layout=layout)
    losses.sum().backward()
    per_run = [int((lines.prompt_of == k).sum()) for k in range(len(active))]
    for k, (run, loss) in enumerate(zip(active, losses.tolist(), strict=True)):
        rate = learning_rate(run.config, run.step + 1)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        norm = float(torch.nn.utils.clip_grad_norm_([run.prompt], run.config.clip))
        if math.isfinite(loss) and math.isfinite(norm):
            run.optimizer.step()
        else:
            loss = math.nan
        run.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.loss = loss
        run.rows += len(batches[k])
        used = sum(len(r.context) + len(r.continuations[0]) - 1 for r in rows[k])
        used += per_run[k] * run.config.virtual_tokens
        run.tokens += used
        yield StepRecord(
            run_id=run.run_id, step=run.step, epoch=run.rows / run.rows_in_epoch, loss=loss,
            learning_rate=rate, gradient_norm=norm, tokens=used, seconds=seconds(),
        )


def _look(
    base: BaseModel, run: _Run, tokens: TokenisedTask, layout: LayoutName, control: Control, *, is_live: bool
) -> Iterator[Record]:
    """Validation, trajectory and live snapshots that are due after this step."""
    config = run.config
    if run.step % max(1, config.steps // TRAJECTORY_POINTS) == 0 or run.step == config.steps:
        yield Snapshot(run.run_id, run.step, run.array())
    elif is_live or run.step == 1:
        yield Snapshot(run.run_id, run.step, run.array(), kind="live")
    if run.step % config.evaluation_interval and run.step != config.steps:
        return
    examples = tokens.splits["validation"][:VALIDATION_ROWS]
    try:
        found = evaluate(
            base, run.prompt.detach(), examples, tokens.label_ids, layout=layout,
            should_stop=lambda: control.is_stopped(run.run_id),
        )
    except Cancelled:
        return
    yield _eval_record(run, "validation", found)
    if found.loss < run.best_loss:
        run.best_loss, run.best_prompt, run.best_step = found.loss, run.array(), run.step


def _finish(
    base: BaseModel, run: _Run, tokens: TokenisedTask, layout: LayoutName, control: Control,
    baselines: _Baselines, status: str, reason: str, seconds: float,
) -> Iterator[Record]:
    """The selected prompt first, so that it is safe, then its test figures beside the baselines."""
    prompt = run.array() if run.best_prompt is None else run.best_prompt
    selected = run.step if run.best_prompt is None else run.best_step
    if np.isfinite(prompt).all():
        yield Snapshot(run.run_id, selected, prompt, kind="selected")
    result: dict[str, Any] = {
        "steps": run.step, "train_loss": _finite(run.loss),
        "eval_loss": None, "eval_perplexity": None, "eval_accuracy": None, "eval_accuracy_low": None,
        "eval_accuracy_high": None, "eval_macro_f1": None, "test_rows": None,
        "baselines": {"majority": majority(tokens), "hand_written": None, "no_prompt": None},
        "seconds": seconds, "tokens_per_second": run.tokens / seconds if seconds > 0 else None,
        "trainable_parameters": run.prompt.numel(), "layout": layout, "selected_step": selected,
        "dropped_rows": tokens.task.dropped_rows, "cut_rows": tokens.cut_rows,
        "device": str(base.device), "dtype": str(base.dtype).removeprefix("torch."),
        "labels": list(tokens.task.labels), "text_column": tokens.task.text_column,
        "label_column": tokens.task.label_column,
    }
    if status == "done":
        try:
            yield from _test_figures(base, run, prompt, tokens, layout, control, baselines, result, selected)
        except Cancelled:
            status, reason = "stopped", "Stopped by the user during the final test; the prompt is complete."
    yield LogRecord(run.run_id, "error" if status == "failed" else "info", reason or f"done after {run.step} steps")
    yield EndRecord(run.run_id, status, reason, result)  # type: ignore[arg-type]


def _test_figures(
    base: BaseModel, run: _Run, prompt: np.ndarray, tokens: TokenisedTask, layout: LayoutName, control: Control,
    baselines: _Baselines, result: dict[str, Any], selected: int,
) -> Iterator[EvalRecord]:
    """Yields the test evaluations and adds them to `result`, this function's output."""

    def should_stop() -> bool:
        return control.is_stopped(run.run_id)

    found = evaluate(
        base, torch.from_numpy(prompt), tokens.splits["test"], tokens.label_ids, layout=layout, should_stop=should_stop
    )
    low, high = accuracy_interval(found.accuracy, found.rows)
    result |= {
        "eval_loss": found.loss, "eval_perplexity": found.perplexity, "eval_accuracy": found.accuracy,
        "eval_accuracy_low": low, "eval_accuracy_high": high, "eval_macro_f1": found.macro_f1,
        "test_rows": found.rows,
    }
    yield EvalRecord(run.run_id, selected, "test", found.loss, found.accuracy, found.macro_f1, found.rows)
    plain = result["baselines"]["majority"]
    yield EvalRecord(run.run_id, 0, "test", None, plain["accuracy"], plain["macro_f1"], found.rows, "majority")
    for source, text in (("hand_written", written_prompt(run.config, tokens)), ("no_prompt", "")):
        held = baselines.evaluate(text, should_stop)
        result["baselines"][source] = {"text": text, **document(held)}
        yield EvalRecord(run.run_id, 0, "test", held.loss, held.accuracy, held.macro_f1, held.rows, source)


class _Baselines:
    """Test figures of hard prompts on the untrained model, each computed once a pass."""

    def __init__(self, base: BaseModel, tokens: TokenisedTask, layout: LayoutName) -> None:
        self._base, self._tokens, self._layout = base, tokens, layout
        self._found: dict[str, Evaluation] = {}

    def evaluate(self, text: str, should_stop: Callable[[], bool]) -> Evaluation:
        if text not in self._found:
            self._found[text] = evaluate(
                self._base, hard_prompt(self._base, text), self._tokens.splits["test"], self._tokens.label_ids,
                layout=self._layout, should_stop=should_stop,
            )
        return self._found[text]


# ------------------------------------------------------------------- start


def written_prompt(config: TrainConfig, tokens: TokenisedTask) -> str:
    """The hand-written prompt of a run: the user's initial text, else one that names the labels."""
    return config.init_text or default_prompt_text(tokens.task)


def starting_prompt(
    config: TrainConfig, base: BaseModel, tokens: TokenisedTask, table: torch.Tensor
) -> tuple[torch.Tensor, list[int] | None]:
    """(prompt [P, H] before training, the token ids it was made of where it was made of tokens)."""
    generator = torch.Generator().manual_seed(config.seed)
    length = config.virtual_tokens
    if config.init == "text":
        ids = text_token_ids(written_prompt(config, tokens), base.tokenizer)
        return initialisers.text(table, length=length, token_ids=ids), initialisers.fill(ids, length=length)
    if config.init == "random":
        return initialisers.random(table, length=length, generator=generator), None
    if config.init == "random_uniform":
        return initialisers.random_uniform(
            table, length=length, generator=generator, limit=config.init_range
        ), None
    if config.init == "peft_random":
        return initialisers.peft_random(table, length=length, generator=generator), None
    if config.init == "first_rows":
        return initialisers.first_rows(table, length=length), list(range(length))
    words = initialisers.ordinary_word_ids(base.tokenizer)
    if config.init == "class_labels":
        labels = [ids[:-1] for ids in tokens.label_ids]
        return initialisers.class_labels(
            table, length=length, label_ids=labels, generator=generator, word_ids=words
        ), None
    prompt = initialisers.sampled_vocab(table, length=length, generator=generator, word_ids=words)
    again = torch.Generator().manual_seed(config.seed)
    return prompt, initialisers.draw_words(words, count=length, generator=again).tolist()


def run_facts(config: TrainConfig, base: BaseModel, tokens: TokenisedTask) -> dict[str, Any]:
    """What a run is made on: revision, data hash, versions, device, the tokens of its start."""
    _, ids = starting_prompt(config, base, tokens, embedding_table(base))
    packages = ("torch", "transformers", "peft", "tokenizers", "safetensors")
    return {
        "model_revision": base.revision, "data_hash": tokens.task.fingerprint, "device": str(base.device),
        "dtype": str(base.dtype).removeprefix("torch."), "labels": list(tokens.task.labels),
        "text_column": tokens.task.text_column, "label_column": tokens.task.label_column,
        "split_sizes": {split: len(rows) for split, rows in tokens.splits.items()},
        "init_tokens": [token_text(base.tokenizer, i) for i in ids] if ids else None,
        "hand_written_prompt": written_prompt(config, tokens),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _start_run(
    run_id: str, config: TrainConfig, base: BaseModel, tokens: TokenisedTask, table: torch.Tensor
) -> _Run:
    prompt, _ = starting_prompt(config, base, tokens, table)
    parameter = torch.nn.Parameter(prompt.to(base.device, torch.float32))
    examples = tokens.splits["train"]
    return _Run(
        run_id=run_id, config=config, prompt=parameter,
        optimizer=torch.optim.AdamW([parameter], lr=config.lr, weight_decay=config.weight_decay),
        order=batches_of(examples, batch_size=config.batch_size, seed=config.seed), rows_in_epoch=len(examples),
    )


def batches_of(examples: list[Example], *, batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Batches without end: every epoch in a new order, its last batch as short as it comes."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield [examples[i] for i in order[start:start + batch_size]]


def _choose(base: BaseModel, tokens: TokenisedTask, active: list[_Run]) -> Choice:
    """The layout, checked on the first batch of the first run."""
    run = active[0]
    batch = next(batches_of(tokens.splits["train"], batch_size=min(8, run.config.batch_size), seed=run.config.seed))
    rows = [Row(e.context, (tokens.label_ids[e.label],)) for e in batch]
    longest = tokens.longest_tokens + run.config.virtual_tokens
    return choose_layout(base, run.prompt.detach()[None], [rows], longest_tokens=longest)


def _about_the_data(runs: Mapping[str, TrainConfig], tokens: TokenisedTask) -> Iterator[LogRecord]:
    task = tokens.task
    sizes = ", ".join(f"{len(rows)} {split}" for split, rows in tokens.splits.items())
    for run_id in runs:
        yield LogRecord(run_id, "info", f"data {task.name}: {sizes} rows; labels {', '.join(task.labels)}")
        if task.dropped_rows:
            yield LogRecord(run_id, "warning", f"{task.dropped_rows} rows without text or label were left out")
        if tokens.cut_rows:
            yield LogRecord(run_id, "warning", f"{tokens.cut_rows} rows were too long and lost the start of their text")


def _about_the_start(run: _Run, base: BaseModel, tokens: TokenisedTask) -> Iterator[LogRecord]:
    config = run.config
    where = f"{base.name} on {base.device} in {str(base.dtype).removeprefix('torch.')}"
    start = f"start: {config.init}, P = {config.virtual_tokens}, seed {config.seed}"
    yield LogRecord(run.run_id, "info", f"{start}; {where}")
    if config.init != "text":
        return
    written = len(text_token_ids(written_prompt(config, tokens), base.tokenizer))
    if written != config.virtual_tokens:
        how = "cut" if written > config.virtual_tokens else "repeated"
        text = f"the initial text has {written} tokens and was {how} to {config.virtual_tokens}"
        yield LogRecord(run.run_id, "info", text)


# ------------------------------------------------------------------- small


def _eval_record(run: _Run, split: str, found: Evaluation) -> EvalRecord:
    return EvalRecord(run.run_id, run.step, split, found.loss, found.accuracy, found.macro_f1, found.rows)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _diverged(run: _Run) -> str:
    return (
        f"The loss stopped being a number at step {run.step}; the best prompt before that was kept. "
        f"Try a learning rate below {run.config.lr:g}, or dtype fp32."
    )
