"""The training loop: K prompts through one frozen model, as a generator of records.

Everyone who trains consumes this one generator: the background thread, the command line, tests. It writes
nothing; the caller decides what to keep, and answers through a `Control`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from softprompt_core.config import PASS_SETTINGS, TrainConfig
from softprompt_core.data import load_task
from softprompt_core.errors import UserError
from softprompt_core.evaluation import Cancelled, Evaluation, evaluate
from softprompt_core.layouts import Choice, LayoutName, Row, batch_losses, choose_layout
from softprompt_core.models import BaseModel, embedding_table, load_model
from softprompt_core.outcomes import UNTESTED, Outcomes, tested
from softprompt_core.records import (
    EndRecord,
    EvalRecord,
    LogRecord,
    Record,
    Snapshot,
    StartRecord,
    Status,
    StepRecord,
)
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


_Ending = tuple[Status, str, float]
"""How a run ended: status, reason, seconds of training."""


@dataclass
class _Run:
    """One prompt while it trains."""

    run_id: str
    config: TrainConfig
    prompt: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    order: Iterator[list[Example]]
    rows_in_epoch: int
    written: str
    init_ids: list[int] | None
    rows: int = 0
    tokens: int = 0
    step: int = 0
    loss: float = math.nan
    best_loss: float = math.inf
    best_prompt: np.ndarray | None = None
    best_step: int = 0

    def array(self) -> np.ndarray:
        return self.prompt.detach().float().cpu().numpy().copy()

    def selected(self) -> tuple[int, np.ndarray]:
        """(step, prompt) of the lowest validation loss, or the present one where none was measured."""
        return (self.step, self.array()) if self.best_prompt is None else (self.best_step, self.best_prompt)


def train(
    runs: Mapping[str, TrainConfig],
    *,
    control: Control | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Record]:
    """Trains every run to its end; yields what happens as it happens.

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
        yield StartRecord(run.run_id, run_facts(run.config, base, tokens, init_ids=run.init_ids))
        yield Snapshot(run.run_id, 0, run.array())
        yield from _about_the_start(run, base, tokens)
    choice = _choose(base, tokens, active)
    for run in active:
        level: Literal["warning", "info"] = "warning" if choice.is_fallback else "info"
        yield LogRecord(run.run_id, level, f"layout {choice.name}: {choice.reason}")

    outcomes, facts = Outcomes(base, tokens, choice.name), _shared_facts(base, tokens, choice.name)
    done: list[tuple[_Run, float]] = []
    started, live = clock(), clock()
    try:
        while active:
            control.wait_while_paused()
            for run in [r for r in active if control.is_stopped(r.run_id)]:
                ending: _Ending = ("stopped", f"Stopped by the user after step {run.step}.", clock() - started)
                yield from _finish(run, outcomes, facts, control, ending)
                active.remove(run)
            if not active:
                break
            for together in _model_passes(base, active):
                yield from _step(base, together, tokens, choice.name, seconds=lambda: clock() - started)
            for run in [r for r in active if not math.isfinite(r.loss)]:
                yield from _finish(run, outcomes, facts, control, ("failed", _diverged(run), clock() - started))
                active.remove(run)
            is_live = clock() - live >= LIVE_SECONDS
            live = clock() if is_live else live
            for run in list(active):
                yield from _look(base, run, tokens, choice.name, control, is_live=is_live)
                if run.step >= run.config.steps:
                    yield from _selected(run)
                    active.remove(run)
                    done.append((run, clock() - started))
    except Exception:
        for run in active:      # a fault, such as memory running out, does not cost what was learned
            yield from _selected(run)
        raise
    for run, seconds in done:
        yield from _finish(run, outcomes, facts, control, ("done", "", seconds))


# ---------------------------------------------------------------- one step


def _model_passes(base: BaseModel, active: list[_Run]) -> list[list[_Run]]:
    """Which runs go through the model at once in a step.

    On a GPU all of them: there the gain is several times. On a CPU it is a tenth or so, and matrix products of
    another shape round differently; over hundreds of steps that grows to points of accuracy. So there each run
    goes alone, and a run of a comparison equals the same run made by itself to the last digit.
    """
    return [[run] for run in active] if base.device.type == "cpu" else [list(active)]


def _step(
    base: BaseModel, active: list[_Run], tokens: TokenisedTask, layout: LayoutName, *, seconds: Callable[[], float]
) -> Iterator[StepRecord]:
    """One optimiser step of these runs, all in one model pass."""
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
    examples = _validation_rows(tokens.splits["validation"], seed=config.split_seed)
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


def _selected(run: _Run) -> Iterator[Snapshot]:
    """The run's selected prompt, unless it is no numbers any more."""
    step, prompt = run.selected()
    if np.isfinite(prompt).all():
        yield Snapshot(run.run_id, step, prompt, kind="selected")


def _finish(
    run: _Run, outcomes: Outcomes, facts: dict[str, Any], control: Control, ending: _Ending
) -> Iterator[Record]:
    """The result of a run: for one that is done (its prompt is out already), test figures beside the baselines."""
    status, reason, seconds = ending
    selected, prompt = run.selected()
    if status != "done":
        yield from _selected(run)
    result: dict[str, Any] = {
        "steps": run.step, "train_loss": run.loss if math.isfinite(run.loss) else None, **UNTESTED,
        "baselines": {"majority": None, "hand_written": None, "no_prompt": None},
        "seconds": seconds, "tokens_per_second": run.tokens / seconds if seconds > 0 else None,
        "trainable_parameters": run.prompt.numel(), "selected_step": selected, **facts,
    }
    if status == "done":
        try:
            found = outcomes.test(torch.from_numpy(prompt), should_stop=lambda: control.is_stopped(run.run_id))
            result |= tested(found)
            yield replace(_eval_record(run, "test", found), step=selected)
            result["baselines"] = outcomes.baselines(
                run.written, should_stop=lambda: control.is_stopped(run.run_id)
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
    run_id: str, config: TrainConfig, base: BaseModel, tokens: TokenisedTask, table: torch.Tensor
) -> _Run:
    prompt, init_ids = starting_prompt(config, base, tokens, table)
    parameter = torch.nn.Parameter(prompt.to(base.device, torch.float32))
    examples = tokens.splits["train"]
    return _Run(
        run_id=run_id, config=config, prompt=parameter,
        optimizer=torch.optim.AdamW([parameter], lr=config.lr, weight_decay=config.weight_decay),
        order=batches_of(examples, batch_size=config.batch_size, seed=config.seed), rows_in_epoch=len(examples),
        written=written_prompt(config, tokens), init_ids=init_ids,
    )


def batches_of(examples: list[Example], *, batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Batches without end: every epoch in a new order, its last batch as short as it comes."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield [examples[i] for i in order[start:start + batch_size]]


def _validation_rows(examples: list[Example], *, seed: int) -> list[Example]:
    """At most VALIDATION_ROWS rows, always the same ones, drawn because files are often sorted by label."""
    if len(examples) <= VALIDATION_ROWS:
        return examples
    drawn = np.random.default_rng(seed).permutation(len(examples))[:VALIDATION_ROWS]
    return [examples[i] for i in sorted(drawn)]


def _choose(base: BaseModel, tokens: TokenisedTask, active: list[_Run]) -> Choice:
    """The layout, checked on the first rows of the first run.

    Two rows at least, each with two labels: rows beside rows and labels beside labels are what packing could get
    wrong, and scoring packs both even where training takes one row a step.
    """
    run = active[0]
    size = min(8, max(2, run.config.batch_size))
    batch = next(batches_of(tokens.splits["train"], batch_size=size, seed=run.config.seed))
    labels = tokens.label_ids
    rows = [Row(e.context, (labels[e.label], labels[(e.label + 1) % len(labels)])) for e in batch]
    longest = tokens.longest_tokens + run.config.virtual_tokens
    return choose_layout(base, run.prompt.detach()[None], [rows], longest_tokens=longest)


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


def _shared_facts(base: BaseModel, tokens: TokenisedTask, layout: LayoutName) -> dict[str, Any]:
    """Facts in the results of all runs of a pass."""
    task = tokens.task
    return {
        "layout": layout, "dropped_rows": task.dropped_rows, "cut_rows": tokens.cut_rows,
        "device": str(base.device), "dtype": str(base.dtype).removeprefix("torch."), "labels": list(task.labels),
        "text_column": task.text_column, "label_column": task.label_column,
    }


def _diverged(run: _Run) -> str:
    return (
        f"The loss stopped being a number at step {run.step}; the best prompt before that was kept. "
        f"Try a learning rate below {run.config.lr:g}, or dtype fp32."
    )
