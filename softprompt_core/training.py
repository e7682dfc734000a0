"""The training loop: K prompts through one frozen model, as a generator of records.

Everyone who trains consumes this one generator: the background thread, the command line, tests. It writes
nothing; the caller decides what to keep, and answers through a `Control`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch

from softprompt_core.beginnings import VALIDATION_ROWS, about_the_data, begin, choose, start_runs
from softprompt_core.config import PASS_SETTINGS, PROMPT_METHODS, TrainConfig
from softprompt_core.control import Control
from softprompt_core.data import load_task
from softprompt_core.endings import Ending, eval_record, finish, padded_to, selected, shared_facts
from softprompt_core.errors import UserError
from softprompt_core.evaluation import Cancelled, evaluate
from softprompt_core.layouts import batch_losses
from softprompt_core.methods import joined
from softprompt_core.models import BaseModel, load_model
from softprompt_core.outcomes import Outcomes
from softprompt_core.plans import LayoutName, Row, divided
from softprompt_core.records import Checkpoint, FloatArray, LogRecord, PauseRecord, Record, Snapshot, StepRecord
from softprompt_core.running import Running
from softprompt_core.schedules import learning_rate
from softprompt_core.tokenising import Example, TokenisedTask, tokenise

LIVE_SECONDS = 2.0
TRAJECTORY_POINTS = 30
PASS_TOKENS, PASS_LOGITS = 16_384, 2**27
"""Tokens, prompts counted, and logits (tokens to predict × vocabulary) that go through the model at once."""


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
    yield from about_the_data(runs, tokens)

    overwritten = {     # at once, by a checkpoint; the run they began at may be gone by now
        run_id: np.zeros((config.virtual_tokens, base.hidden_size), np.float32)
        for run_id, config in runs.items() if config.init == "from_run" and run_id in resume
    }
    active = start_runs(runs, base, tokens, {**overwritten, **(starts or {})})
    choice = choose(tokens, active[0])     # at the runs' own start, so that a resumed run finds what it had found
    for run in active:
        yield from begin(run, resume.get(run.run_id), base, tokens)
        level: Literal["warning", "info"] = "warning" if choice.is_fallback else "info"
        yield LogRecord(run.run_id, level, f"layout {choice.name}: {choice.reason}")
    resume = {}     # read by now, and perhaps several times as large as the model

    outcomes = Outcomes(base, tokens, choice.scoring, is_for_words=first.method in PROMPT_METHODS)
    facts = shared_facts(base, tokens, choice.name)
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
                ending: Ending = ("stopped", f"Stopped by the user after step {run.step}.", seconds)
                yield from finish(run, outcomes, facts, control, ending)
                active.remove(run)
            yield from _hold(active, control, clock, started)
            moving = [run for run in active if run.held_since is None]
            due = [run for run in moving if run.step < run.config.steps and not run.is_out_of_patience]
            for together in _model_passes(base, due):
                yield from _step(together, tokens, choice.name, seconds=lambda: clock() - started)
            for run in [r for r in due if r.trouble()]:
                yield from finish(run, outcomes, facts, control, ("failed", run.trouble(), clock() - started))
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
                    yield from selected(run)
                    active.remove(run)
                    done.append((run, _why_done(run), clock() - started))
    except Exception:
        for run in active:      # a fault, such as memory running out, does not cost what was learned
            yield from selected(run)
        for run, reason, seconds in done:       # nor the others their test
            yield from finish(run, outcomes, facts, control, ("done", reason, seconds))
        raise
    for run, reason, seconds in done:
        yield from finish(run, outcomes, facts, control, ("done", reason, seconds))


def trial(
    config: TrainConfig, base: BaseModel, tokens: TokenisedTask, *, start: FloatArray | None = None
) -> tuple[Running, LayoutName, Callable[[], StepRecord]]:
    """(a run at its start, its layout, one real step of it at every call), for measuring what a run will take."""
    (run,) = start_runs({"trial": config}, base, tokens, {} if start is None else {"trial": start})
    layout = choose(tokens, run).name
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
            active[0].method.base, leads, rows, layout=layout, padded_to=padded_to(active[0])
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
            padded_to=padded_to(run),
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
            run.method.base, run.method.lead(), examples, tokens.label_ids, layout=layout, padded_to=padded_to(run),
            should_stop=lambda: control.is_stopped(run.run_id),
        )
    except Cancelled:
        return
    yield eval_record(run, "validation", found)
    run.note_validation(found)
    run.looked_at = run.step


def _validation_rows(examples: list[Example], *, seed: int) -> list[Example]:
    """At most VALIDATION_ROWS rows, always the same ones, drawn because files are often sorted by label."""
    if len(examples) <= VALIDATION_ROWS:
        return examples
    drawn = np.random.default_rng(seed).permutation(len(examples))[:VALIDATION_ROWS]
    return [examples[i] for i in sorted(drawn)]


def _why_done(run: Running) -> str:
    if run.step >= run.config.steps:
        return ""
    looks = f"{run.config.patience} evaluations without a better validation {run.config.select_by}"
    return f"Ended early after step {run.step}: {looks}."
