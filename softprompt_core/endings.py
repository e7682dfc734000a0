"""How runs end: the selected prompt, its test figures beside the baselines, and the last record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from softprompt_core.control import Control
from softprompt_core.evaluation import Cancelled, Evaluation
from softprompt_core.models import BaseModel
from softprompt_core.outcomes import UNTESTED, UNTRAINED, Outcomes, tested
from softprompt_core.plans import LayoutName
from softprompt_core.records import EndRecord, EvalRecord, LogRecord, Record, Snapshot, Status, Weights
from softprompt_core.running import Running
from softprompt_core.tokenising import TokenisedTask, longest_row

Ending = tuple[Status, str, float]
"""How a run ended: status, reason, seconds of training."""


def selected(run: Running) -> Iterator[Record]:
    """What the run has learned at its selected step, unless it is no numbers any more."""
    step, tensors = run.selected_step, run.method.tensors() if run.best is None else run.best
    if not all(np.isfinite(value).all() for value in tensors.values()):
        return
    if run.has_prompt:
        yield Snapshot(run.run_id, step, run.prompt() if run.best_prompt is None else run.best_prompt, kind="selected")
    if run.config.method != "prompt":
        yield Weights(run.run_id, step, tensors)


def finish(
    run: Running, outcomes: Outcomes, facts: dict[str, Any], control: Control, ending: Ending
) -> Iterator[Record]:
    """The result of a run: for one that is done (its prompt is out already), test figures beside the baselines."""
    status, reason, seconds = ending
    seconds += run.seconds_before
    if status != "done":
        yield from selected(run)
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
                run.method.base, run.method.lead(), padded_to=padded_to(run),
                should_stop=lambda: control.is_stopped(run.run_id),
            )
            result |= tested(found)
            yield replace(eval_record(run, "test", found), step=step)
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


def shared_facts(base: BaseModel, tokens: TokenisedTask, layout: LayoutName) -> dict[str, Any]:
    """Facts in the results of all runs of a pass."""
    task = tokens.task
    return {
        "layout": layout, "dropped_rows": task.dropped_rows, "cut_rows": tokens.cut_rows,
        "device": str(base.device), "dtype": str(base.dtype).removeprefix("torch."), "labels": list(task.labels),
        "text_column": task.text_column, "label_column": task.label_column,
    }


def eval_record(run: Running, split: str, found: Evaluation) -> EvalRecord:
    return EvalRecord(run.run_id, run.step, split, found.loss, found.accuracy, found.macro_f1, found.rows)


def padded_to(run: Running) -> int:
    """What PEFT's layout pads every row to; others do not."""
    return longest_row(run.config, run.method.base.context)
