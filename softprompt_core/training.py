"""The training loop: K prompts through one frozen model, as a generator of records.

Everyone who trains consumes this one generator: the background thread, the command line, tests. It writes
nothing; the caller decides what to keep, and answers through a `Control`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from softprompt_core.config import PASS_SETTINGS, TrainConfig
from softprompt_core.data import load_task
from softprompt_core.errors import UserError
from softprompt_core.evaluation import Cancelled, Evaluation, evaluate
from softprompt_core.layouts import Choice, LayoutName, Row, batch_losses, choose_layout
from softprompt_core.methods import build_method, joined
from softprompt_core.models import BaseModel, embedding_table, load_model
from softprompt_core.optimisers import build_optimizer
from softprompt_core.outcomes import UNTESTED, Outcomes, tested
from softprompt_core.records import (
    Checkpoint,
    EndRecord,
    EvalRecord,
    FloatArray,
    LogRecord,
    Record,
    Snapshot,
    StartRecord,
    Status,
    StepRecord,
    Weights,
)
from softprompt_core.running import Order, Running
from softprompt_core.schedules import learning_rate
from softprompt_core.starts import run_facts, starting_prompt, written_prompt
from softprompt_core.tokenising import Example, TokenisedTask, text_token_ids, tokenise

LIVE_SECONDS = 2.0
TRAJECTORY_POINTS = 30
VALIDATION_ROWS = 500


class Control:
    """What a caller may ask of training while it runs; safe to use from any thread."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._stops_all = False
        self._is_paused = False
        self._changed = threading.Condition()

    def stop(self, run_id: str) -> None:
        """Ends one run after its present step; its best prompt is kept."""
        with self._changed:
            self._stopped.add(run_id)
            self._changed.notify_all()

    def stop_all(self) -> None:
        # no lock: a signal handler calls this, perhaps while its own thread holds the lock
        self._stops_all = True

    def pause(self, is_paused: bool) -> None:
        """Holds every run between two steps, or lets them go on."""
        with self._changed:
            self._is_paused = is_paused
            self._changed.notify_all()

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def is_stopped(self, run_id: str) -> bool:
        return self._stops_all or run_id in self._stopped

    def wait_while_paused(self, run_ids: Collection[str]) -> None:
        """Returns when training may go on, or one of these runs is to stop."""
        with self._changed:
            while self._is_paused and not any(self.is_stopped(run_id) for run_id in run_ids):
                self._changed.wait(timeout=0.2)


_Ending = tuple[Status, str, float]
"""How a run ended: status, reason, seconds of training."""


def train(
    runs: Mapping[str, TrainConfig],
    *,
    control: Control | None = None,
    clock: Callable[[], float] = time.perf_counter,
    starts: Mapping[str, FloatArray] | None = None,
    resume: Mapping[str, Checkpoint] | None = None,
) -> Iterator[Record]:
    """Trains every run to its end; yields what happens as it happens.

    runs: id → settings, alike in everything that `PASS_SETTINGS` names. Each run's randomness comes from its own
    generators, so a run gives the same losses alone and in company. starts: the prompts [P, H] of runs whose init is
    from_run; resume: checkpoints of runs that go on where they were. Raises UserError before the first step
    when the settings cannot work.
    """
    control, resume = control or Control(), resume or {}
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
    active = [_start_run(i, config, base, tokens, table, starts or {}) for i, config in runs.items()]
    for run in active:
        if saved := resume.get(run.run_id):
            run.restore(saved)
            yield LogRecord(run.run_id, "info", f"resumed after step {run.step}")
            continue
        yield StartRecord(run.run_id, run_facts(run.config, base, tokens, init_ids=run.init_ids))
        if run.has_prompt:
            yield Snapshot(run.run_id, 0, run.prompt())
        yield from _about_the_start(run, base, tokens)
    choice = _choose(tokens, active[0])
    for run in active:
        level: Literal["warning", "info"] = "warning" if choice.is_fallback else "info"
        yield LogRecord(run.run_id, level, f"layout {choice.name}: {choice.reason}")

    outcomes, facts = Outcomes(base, tokens, choice.name), _shared_facts(base, tokens, choice.name)
    done: list[tuple[Running, str, float]] = []
    started, live = clock(), clock()
    try:
        while active:
            control.wait_while_paused([run.run_id for run in active])
            for run in [r for r in active if control.is_stopped(r.run_id)]:
                seconds = clock() - started
                yield run.checkpoint(seconds=seconds)
                ending: _Ending = ("stopped", f"Stopped by the user after step {run.step}.", seconds)
                yield from _finish(run, outcomes, facts, control, ending)
                active.remove(run)
            for together in _model_passes(base, [r for r in active if r.step < r.config.steps]):
                yield from _step(together, tokens, choice.name, seconds=lambda: clock() - started)
            for run in [r for r in active if r.trouble()]:
                yield from _finish(run, outcomes, facts, control, ("failed", run.trouble(), clock() - started))
                active.remove(run)
            is_live = clock() - live >= LIVE_SECONDS
            live = clock() if is_live else live
            for run in list(active):
                yield from _look(run, tokens, choice.name, control, is_live=is_live)
                if run.step % run.config.checkpoint_interval == 0 or run.step >= run.config.steps:
                    yield run.checkpoint(seconds=clock() - started)
                if run.step >= run.config.steps or run.is_out_of_patience:
                    yield from _selected(run)
                    active.remove(run)
                    done.append((run, _why_done(run), clock() - started))
    except Exception:
        for run in active:      # a fault, such as memory running out, does not cost what was learned
            yield from _selected(run)
        raise
    for run, reason, seconds in done:
        yield from _finish(run, outcomes, facts, control, ("done", reason, seconds))


# ---------------------------------------------------------------- one step


def _model_passes(base: BaseModel, active: list[Running]) -> list[list[Running]]:
    """Which runs go through the model at once in a step.

    On a GPU all of them: there the gain is several times. On a CPU it is a tenth or so, and matrix products of
    another shape round differently; over hundreds of steps that grows to points of accuracy. So there each run
    goes alone, and a run of a comparison equals the same run made by itself to the last digit.
    """
    if base.device.type == "cpu" or any(run.config.method != "prompt" for run in active):
        return [[run] for run in active]
    return [list(active)] if active else []


def _step(
    active: list[Running], tokens: TokenisedTask, layout: LayoutName, *, seconds: Callable[[], float]
) -> Iterator[StepRecord]:
    """One optimiser step of these runs, all in one model pass (or `accumulation` of them)."""
    batches = [_batches(run, tokens) for run in active]
    counts = [sum(len(row.continuations[0]) for batch in parts for row in batch) for parts in batches]
    losses, used = [0.0] * len(active), [0] * len(active)
    for part in range(max(map(len, batches))):
        which = [k for k, parts in enumerate(batches) if part < len(parts)]
        rows = [batches[k][part] for k in which]
        found, lines = batch_losses(
            active[0].method.base, joined([active[k].method.lead() for k in which]), rows, layout=layout
        )
        # a part weighs as much as it has label tokens, so that 4 × 2 rows give what 1 × 8 gives
        shares = [sum(len(row.continuations[0]) for row in r) / counts[k] for k, r in zip(which, rows, strict=True)]
        weighted = found * found.new_tensor(shares)
        weighted.sum().backward()
        for place, (k, loss) in enumerate(zip(which, weighted.tolist(), strict=True)):
            losses[k] += loss
            used[k] += sum(len(row.context) + len(row.continuations[0]) - 1 for row in rows[place])
            used[k] += int((lines.prompt_of == place).sum()) * active[k].config.virtual_tokens
    for k, run in enumerate(active):
        rate = learning_rate(run.config, run.step + 1)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        norm = float(torch.nn.utils.clip_grad_norm_(run.method.parameters(), run.config.clip))
        is_sound = math.isfinite(losses[k]) and math.isfinite(norm)
        if is_sound:
            run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.note_loss(losses[k] if is_sound else math.nan)
        run.rows += sum(map(len, batches[k]))
        run.tokens += used[k]
        yield StepRecord(
            run_id=run.run_id, step=run.step, epoch=run.rows / run.rows_in_epoch, loss=run.loss,
            learning_rate=rate, gradient_norm=norm, tokens=used[k], seconds=run.seconds_before + seconds(),
        )


def _batches(run: Running, tokens: TokenisedTask) -> list[list[Row]]:
    """The rows of one optimiser step, divided into the parts that go through the model one after another."""
    examples = [tokens.splits["train"][i] for i in run.order.next()]
    rows = [Row(e.context, (tokens.label_ids[e.label],)) for e in examples]
    size = run.config.batch_size
    return [rows[start:start + size] for start in range(0, len(rows), size)]


def _look(
    run: Running, tokens: TokenisedTask, layout: LayoutName, control: Control, *, is_live: bool
) -> Iterator[Record]:
    """Validation, trajectory and live snapshots that are due after this step."""
    config = run.config
    if run.has_prompt:
        if run.step % max(1, config.steps // TRAJECTORY_POINTS) == 0 or run.step == config.steps:
            yield Snapshot(run.run_id, run.step, run.prompt())
        elif is_live or run.step == 1:
            yield Snapshot(run.run_id, run.step, run.prompt(), kind="live")
    if (run.step % config.evaluation_interval and run.step < config.steps) or run.step == run.looked_at:
        return
    examples = _validation_rows(tokens.splits["validation"], seed=config.split_seed)
    try:
        found = evaluate(
            run.method.base, run.method.lead().detach(), examples, tokens.label_ids, layout=layout,
            should_stop=lambda: control.is_stopped(run.run_id),
        )
    except Cancelled:
        return
    yield _eval_record(run, "validation", found)
    run.note_validation(found)
    run.looked_at = run.step


def _why_done(run: Running) -> str:
    if run.step >= run.config.steps:
        return ""
    looks = f"{run.config.patience} evaluations without a better validation {run.config.select_by}"
    return f"Ended early after step {run.step}: {looks}."


def _selected(run: Running) -> Iterator[Record]:
    """What the run has learned at its selected step, unless it is no numbers any more."""
    step, tensors = run.selected_step, run.method.tensors() if run.best is None else run.best
    if not all(np.isfinite(value).all() for value in tensors.values()):
        return
    if run.has_prompt:
        yield Snapshot(run.run_id, step, run.prompt() if run.best_prompt is None else run.best_prompt, kind="selected")
    if run.config.method != "prompt":
        yield Weights(run.run_id, step, tensors)


def _finish(
    run: Running, outcomes: Outcomes, facts: dict[str, Any], control: Control, ending: _Ending
) -> Iterator[Record]:
    """The result of a run: for one that is done (its prompt is out already), test figures beside the baselines."""
    status, reason, seconds = ending
    seconds += run.seconds_before
    if status != "done":
        yield from _selected(run)
    trainable = sum(parameter.numel() for parameter in run.method.parameters())
    result: dict[str, Any] = {
        "steps": run.step, "train_loss": run.loss if math.isfinite(run.loss) else None, **UNTESTED,
        "baselines": {"majority": None, "hand_written": None, "no_prompt": None},
        "seconds": seconds, "tokens_per_second": run.tokens / seconds if seconds > 0 else None,
        "trainable_parameters": trainable, "selected_step": run.selected_step, **facts,
    }
    if status == "done":
        try:
            step = run.select()
            found = outcomes.test(
                run.method.base, run.method.lead().detach(), should_stop=lambda: control.is_stopped(run.run_id)
            )
            result |= tested(found)
            yield replace(_eval_record(run, "test", found), step=step)
            result["baselines"] = outcomes.baselines(
                run.written, shots=run.config.shots, should_stop=lambda: control.is_stopped(run.run_id)
            )
            for source, figures in result["baselines"].items():
                yield EvalRecord(
                    run.run_id, 0, "test", figures.get("loss"), figures["accuracy"], figures["macro_f1"],
                    found.rows, source,
                )
        except Cancelled:
            status, reason = "stopped", "Stopped by the user during the final test; the prompt is complete."
    yield LogRecord(run.run_id, "error" if status == "failed" else "info", reason or f"done after {run.step} steps")
    yield EndRecord(run.run_id, status, reason, result)


# ------------------------------------------------------------------- start


def _start_run(
    run_id: str, config: TrainConfig, base: BaseModel, tokens: TokenisedTask, table: torch.Tensor,
    starts: Mapping[str, FloatArray],
) -> Running:
    prompt, init_ids = starting_prompt(config, base, tokens, table, start=starts.get(run_id))
    method = build_method(config, base, prompt)
    rows = len(tokens.splits["train"])
    return Running(
        run_id=run_id, config=config, method=method, optimizer=build_optimizer(config, method.parameters()),
        order=Order(rows, batch_size=config.batch_size * config.accumulation, seed=config.seed), rows_in_epoch=rows,
        written=written_prompt(config, tokens), init_ids=init_ids,
    )


def _validation_rows(examples: list[Example], *, seed: int) -> list[Example]:
    """At most VALIDATION_ROWS rows, always the same ones, drawn because files are often sorted by label."""
    if len(examples) <= VALIDATION_ROWS:
        return examples
    drawn = np.random.default_rng(seed).permutation(len(examples))[:VALIDATION_ROWS]
    return [examples[i] for i in sorted(drawn)]


def _choose(tokens: TokenisedTask, run: Running) -> Choice:
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
    return choose_layout(run.method.base, joined([run.method.lead().detach()]), [rows], longest_tokens=longest)


def _about_the_data(runs: Mapping[str, TrainConfig], tokens: TokenisedTask) -> Iterator[LogRecord]:
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


def _eval_record(run: Running, split: str, found: Evaluation) -> EvalRecord:
    return EvalRecord(run.run_id, run.step, split, found.loss, found.accuracy, found.macro_f1, found.rows)


def _shared_facts(base: BaseModel, tokens: TokenisedTask, layout: LayoutName) -> dict[str, Any]:
    """Facts in the results of all runs of a pass."""
    task = tokens.task
    return {
        "layout": layout, "dropped_rows": task.dropped_rows, "cut_rows": tokens.cut_rows,
        "device": str(base.device), "dtype": str(base.dtype).removeprefix("torch."), "labels": list(task.labels),
        "text_column": task.text_column, "label_column": task.label_column,
    }
