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

from softprompt_core.config import PASS_SETTINGS, PROMPT_METHODS, TrainConfig
from softprompt_core.data import load_task
from softprompt_core.errors import UserError
from softprompt_core.evaluation import Cancelled, Evaluation, evaluate
from softprompt_core.layouts import batch_losses
from softprompt_core.methods import build_method, joined
from softprompt_core.models import BaseModel, embedding_table, load_model
from softprompt_core.optimisers import build_optimizer
from softprompt_core.outcomes import UNTESTED, UNTRAINED, Outcomes, tested
from softprompt_core.plans import LayoutName, Row, divided
from softprompt_core.recomputing import recomputing
from softprompt_core.records import (
    Checkpoint,
    EndRecord,
    EvalRecord,
    FloatArray,
    LogRecord,
    PauseRecord,
    Record,
    ResumeRecord,
    Snapshot,
    StartRecord,
    Status,
    StepRecord,
    Weights,
)
from softprompt_core.running import Order, Running
from softprompt_core.schedules import learning_rate
from softprompt_core.self_check import Choice, choose_layout
from softprompt_core.starts import run_facts, starting_prompt, written_prompt
from softprompt_core.tokenising import Example, TokenisedTask, longest_row, text_token_ids, tokenise

LIVE_SECONDS = 2.0
TRAJECTORY_POINTS = 30
VALIDATION_ROWS = 500
PASS_TOKENS, PASS_LOGITS = 16_384, 2**27
"""Tokens, prompts counted, and logits (tokens to predict × vocabulary) that go through the model at once."""


class Control:
    """What a caller may ask of training while it runs; safe to use from any thread."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._stops_all = False
        self._paused: set[str] = set()
        self._pauses_all = False
        self._lost: set[str] = set()
        self._changed = threading.Condition()

    def stop(self, run_id: str) -> None:
        """Ends one run after its present step; its best prompt is kept."""
        with self._changed:
            self._stopped.add(run_id)
            self._changed.notify_all()

    def stop_all(self) -> None:
        # no lock: a signal handler calls this, perhaps while its own thread holds the lock
        self._stops_all = True

    def lose(self, run_id: str) -> None:
        """Ends one run here, because another process goes on with it; what it still yields is not to be kept."""
        self._lost.add(run_id)
        self.stop(run_id)

    def pause(self, is_paused: bool, *, run_id: str | None = None) -> None:
        """Holds this run, or every run, between two steps, or lets it go on."""
        with self._changed:
            if run_id is None:
                self._pauses_all = is_paused
            elif is_paused:
                self._paused.add(run_id)
            else:
                self._paused.discard(run_id)
            self._changed.notify_all()

    def is_paused(self, run_id: str) -> bool:
        return self._pauses_all or run_id in self._paused

    def is_stopped(self, run_id: str) -> bool:
        return self._stops_all or run_id in self._stopped

    def is_lost(self, run_id: str) -> bool:
        return run_id in self._lost

    def wait_while_paused(self, run_ids: Collection[str]) -> None:
        """Returns when one of these runs may go on or is to stop."""
        with self._changed:
            while all(self.is_paused(run_id) and not self.is_stopped(run_id) for run_id in run_ids):
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
    from_run; resume: checkpoints of runs that go on where they were, or begin where another was (`running.fork_of`).
    Raises UserError before the first step when the settings cannot work.
    """
    control, resume = control or Control(), resume or {}
    if len({config.pass_settings() for config in runs.values()}) != 1:
        raise UserError(
            f"Runs that train together must agree on {', '.join(PASS_SETTINGS)}. Train them one after another."
        )
    first = next(iter(runs.values()))
    task = load_task(first)
    base = load_model(first.model, device=first.device, dtype=first.dtype)
    tokens = tokenise(
        task, base.tokenizer, first, context=base.context, is_encoder_decoder=base.is_encoder_decoder
    )
    runs = {run_id: config.for_rows(len(tokens.splits["train"])) for run_id, config in runs.items()}
    yield from _about_the_data(runs, tokens)

    overwritten = {     # at once, by a checkpoint; the run they began at may be gone by now
        run_id: np.zeros((config.virtual_tokens, base.hidden_size), np.float32)
        for run_id, config in runs.items() if config.init == "from_run" and run_id in resume
    }
    active = _start_runs(runs, base, tokens, {**overwritten, **(starts or {})})
    choice = _choose(tokens, active[0])     # at the runs' own start, so that a resumed run finds what it had found
    for run in active:
        yield from _begin(run, resume.get(run.run_id), base, tokens)
        level: Literal["warning", "info"] = "warning" if choice.is_fallback else "info"
        yield LogRecord(run.run_id, level, f"layout {choice.name}: {choice.reason}")
    resume = {}     # read by now, and perhaps several times as large as the model

    outcomes = Outcomes(base, tokens, choice.scoring, is_for_words=first.method in PROMPT_METHODS)
    facts = _shared_facts(base, tokens, choice.name)
    done: list[tuple[Running, str, float]] = []
    started, live = clock(), clock()
    try:
        for run in [r for r in active if r.step]:       # a look that was cut short before the checkpoint
            yield from _look(run, tokens, choice.scoring, control, is_live=True)
        while active:
            yield from _hold(active, control, clock, started)
            if all(run.held_since is not None for run in active):
                control.wait_while_paused([run.run_id for run in active])
            for run in [r for r in active if control.is_stopped(r.run_id)]:
                run.release(clock())
                seconds = clock() - started
                yield run.checkpoint(seconds=seconds)
                ending: _Ending = ("stopped", f"Stopped by the user after step {run.step}.", seconds)
                yield from _finish(run, outcomes, facts, control, ending)
                active.remove(run)
            yield from _hold(active, control, clock, started)
            moving = [run for run in active if run.held_since is None]
            due = [run for run in moving if run.step < run.config.steps and not run.is_out_of_patience]
            for together in _model_passes(base, due):
                yield from _step(together, tokens, choice.name, seconds=lambda: clock() - started)
            for run in [r for r in due if r.trouble()]:
                yield from _finish(run, outcomes, facts, control, ("failed", run.trouble(), clock() - started))
                active.remove(run)
                moving.remove(run)
            is_live = clock() - live >= LIVE_SECONDS
            live = clock() if is_live else live
            for run in moving:
                yield from _look(run, tokens, choice.scoring, control, is_live=is_live)
                is_over = run.step >= run.config.steps or run.is_out_of_patience
                if run.step % run.config.checkpoint_interval == 0 or is_over:
                    yield run.checkpoint(seconds=clock() - started)
                if is_over:
                    yield from _selected(run)
                    active.remove(run)
                    done.append((run, _why_done(run), clock() - started))
    except Exception:
        for run in active:      # a fault, such as memory running out, does not cost what was learned
            yield from _selected(run)
        raise
    for run, reason, seconds in done:
        yield from _finish(run, outcomes, facts, control, ("done", reason, seconds))


def trial(
    config: TrainConfig, base: BaseModel, tokens: TokenisedTask, *, start: FloatArray | None = None
) -> tuple[Running, LayoutName, Callable[[], StepRecord]]:
    """(a run at its start, its layout, one real step of it at every call), for measuring what a run will take."""
    (run,) = _start_runs({"trial": config}, base, tokens, {} if start is None else {"trial": start})
    layout = _choose(tokens, run).name
    return run, layout, lambda: next(_step([run], tokens, layout, seconds=lambda: 0.0))


# ---------------------------------------------------------------- one step


def _hold(active: list[Running], control: Control, clock: Callable[[], float], started: float) -> Iterator[Record]:
    """Holds the runs that are to pause, each with a checkpoint, and lets those go that are to go on."""
    for run in active:
        is_paused = control.is_paused(run.run_id)
        if is_paused == (run.held_since is not None) or control.is_stopped(run.run_id):
            continue
        if is_paused:
            run.held_since = clock()
            yield run.checkpoint(seconds=run.held_since - started)
        else:
            run.release(clock())
        yield LogRecord(run.run_id, "info", f"{'paused' if is_paused else 'goes on'} after step {run.step}")
        yield PauseRecord(run.run_id, run.step, is_paused)


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
    batches = [_batches(run, tokens, layout, among=len(active)) for run in active]
    counts = [sum(len(row.continuations[0]) for batch in parts for row in batch) for parts in batches]
    losses, used = [0.0] * len(active), [0] * len(active)
    for part in range(max(map(len, batches))):
        which = [k for k, parts in enumerate(batches) if part < len(parts)]
        rows = [batches[k][part] for k in which]
        leads = joined([active[k].method.lead() for k in which])
        # a part of a batch must be padded as wide as the whole, so PEFT's padding is always of the widest row allowed
        found, lines = batch_losses(
            active[0].method.base, leads, rows, layout=layout, padded_to=_padded_to(active[0])
        )
        # a part weighs as much as it has label tokens, so that 4 × 2 rows give what 1 × 8 gives
        shares = [sum(len(row.continuations[0]) for row in r) / counts[k] for k, r in zip(which, rows, strict=True)]
        weighted = found * found.new_tensor(shares)
        weighted.sum().backward()
        for place, (k, loss) in enumerate(zip(which, weighted.tolist(), strict=True)):
            losses[k] += loss
            used[k] += lines.tokens_of(place)
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


def _batches(run: Running, tokens: TokenisedTask, layout: LayoutName, *, among: int = 1) -> list[list[Row]]:
    """The rows of one optimiser step, divided into the parts that go through the model one after another.

    A part is a batch, or as much of it as there is room for beside those of `among` runs that share the pass.
    """
    examples = [tokens.splits["train"][i] for i in run.order.next()]
    rows = [Row(e.context, (tokens.label_ids[e.label],)) for e in examples]
    size, base = run.config.batch_size, run.method.base
    return [
        part for start in range(0, len(rows), size)
        for part in divided(
            rows[start:start + size], prompt_length=run.config.virtual_tokens, layout=layout,
            tokens=PASS_TOKENS // among, predictions=PASS_LOGITS // base.vocab_size // among,
            padded_to=_padded_to(run),
        )
    ]


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
            run.method.base, run.method.lead(), examples, tokens.label_ids, layout=layout, padded_to=_padded_to(run),
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
        "baselines": dict.fromkeys(UNTRAINED if run.config.shots else UNTRAINED[:3]),
        "seconds": seconds, "tokens_per_second": run.tokens / seconds if seconds > 0 else None,
        "trainable_parameters": trainable, "selected_step": run.selected_step, **facts,
    }
    if status == "done":
        try:
            step = run.select()
            found = outcomes.test(
                run.method.base, run.method.lead(), padded_to=_padded_to(run),
                should_stop=lambda: control.is_stopped(run.run_id),
            )
            result |= tested(found)
            yield replace(_eval_record(run, "test", found), step=step)
            result["baselines"] = outcomes.baselines(
                run.written, shots=run.config.shots, seed=run.config.split_seed,
                should_stop=lambda: control.is_stopped(run.run_id),
            )
            fitting = result["baselines"].get("few_shot", {}).get("shots", 0)
            if fitting < run.config.shots:
                text = f"few-shot baseline: {fitting} of {run.config.shots} examples were there and fitted"
                yield LogRecord(run.run_id, "warning", text)
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


def _start_runs(
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


def _begin(run: Running, saved: Checkpoint | None, base: BaseModel, tokens: TokenisedTask) -> Iterator[Record]:
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
    return choose_layout(
        run.method.base, joined([run.method.lead()]), [rows], longest_tokens=longest,
        peft_positions=run.config.peft_positions,
    )


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


# ------------------------------------------------------------------- small


def _padded_to(run: Running) -> int:
    """What PEFT's layout pads every row to; others do not."""
    return longest_row(run.config, run.method.base.context)


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
