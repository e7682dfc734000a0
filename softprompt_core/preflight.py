"""What a run will be, said before compute is spent: its size, its time and memory, and what is likely a slip."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from softprompt_core import cautions
from softprompt_core.beginnings import VALIDATION_ROWS
from softprompt_core.config import TrainConfig
from softprompt_core.copies import GIGABYTE, available_bytes
from softprompt_core.data import load_task
from softprompt_core.errors import UserError
from softprompt_core.evaluation import evaluate
from softprompt_core.models import (
    BaseModel,
    embedding_table,
    load_model,
    load_tokenizer,
    loaded_model,
    locate,
    read_context,
)
from softprompt_core.plans import LayoutName, Row, plan
from softprompt_core.records import FloatArray
from softprompt_core.running import Order
from softprompt_core.starts import written_prompt
from softprompt_core.tokenising import TokenisedTask, text_token_ids, tokenise
from softprompt_core.training import PASS_TOKENS, trial
from softprompt_core.visible import token_text

CHEAP_BYTES = 200_000_000
"""Weights up to this size are loaded for a preflight without being asked for."""
TRIED_ROWS, SCORED_ROWS = 64, 16
"""Rows of the steps, and of the evaluation, that are really made; what more rows take is worked out from them."""


@dataclass(frozen=True)
class Preflight:
    """One table and its warnings in words, and the same in plain numbers; None means not known.

    rows: (what, value) in the order in which they are read. is_measured: whether time and memory come from real steps
    of the loaded model. split_rows: rows a split. passes_per_step: parts that a step goes through the model in.
    training_seconds: with its looks at the validation split, without the final test. activation_bytes: what a step
    adds to the model_bytes of the loaded model.
    """

    rows: list[tuple[str, str]]
    warnings: list[str]
    is_measured: bool
    steps: int
    epochs: float
    trainable_parameters: int | None
    model_parameters: int | None
    split_rows: dict[str, int]
    dropped_rows: int
    cut_rows: int
    tokens_per_step: int
    passes_per_step: int | None
    seconds_per_step: float | None
    training_seconds: float | None
    test_seconds: float | None
    model_bytes: int | None
    activation_bytes: int | None
    init_tokens: list[str] | None
    layout: str | None

    def document(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {"rows": [{"what": what, "value": value} for what, value in self.rows]}


@dataclass(frozen=True)
class _Measured:
    """What real steps of the loaded model took."""

    layout: LayoutName
    trainable_parameters: int
    tokens: int
    passes: int
    step_seconds: float
    look_seconds: float
    test_seconds: float
    activation_bytes: int
    start: torch.Tensor | None


def preflight(
    config: TrainConfig, *, may_load: bool = False, start: FloatArray | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Preflight:
    """What these settings come to, and what about them is likely a slip.

    Time and memory are measured where the model is in memory, small, or may be loaded. start: [P, H], the trained
    prompt that init from_run begins at. Raises UserError for what would stop the run for the data's sake.
    """
    task = load_task(config)
    base = _base(config, may_load=may_load)
    tokenizer = base.tokenizer if base else load_tokenizer(config.model)
    context = base.context if base else read_context(config.model)
    tokens = tokenise(task, tokenizer, config, context=context)
    rows = len(tokens.splits["train"])
    config = config.for_rows(rows)
    measured, stops = None, ""
    if base is not None:
        try:
            measured = _measure(config, base, tokens, start=start, clock=clock)
        except UserError as error:
            stops = f"As it is the run will stop before its first step: {error}"
    per_step = measured.tokens if measured else _tokens_per_step(config, tokens)
    model_bytes = _size(base.module) if base else None
    looks = math.ceil(config.steps / config.evaluation_interval)
    seconds = config.steps * measured.step_seconds + looks * measured.look_seconds if measured else None
    init_tokens = _init_tokens(config, tokens, tokenizer)
    found = Preflight(
        rows=[], warnings=[], is_measured=measured is not None, steps=config.steps,
        epochs=config.steps / math.ceil(rows / (config.batch_size * config.accumulation)),
        trainable_parameters=measured.trainable_parameters if measured else None,
        model_parameters=sum(p.numel() for p in base.module.parameters()) if base else None,
        split_rows={split: len(examples) for split, examples in tokens.splits.items()},
        dropped_rows=task.dropped_rows, cut_rows=tokens.cut_rows, tokens_per_step=per_step,
        passes_per_step=measured.passes if measured else None,
        seconds_per_step=measured.step_seconds if measured else None, training_seconds=seconds,
        test_seconds=measured.test_seconds if measured else None, model_bytes=model_bytes,
        activation_bytes=measured.activation_bytes if measured else None,
        init_tokens=init_tokens, layout=measured.layout if measured else None,
    )
    warnings = [stops] if stops else []
    warnings += cautions.about_data(config, tokens, context=context)
    warnings += cautions.about_settings(config, tokens)
    if base is not None:
        warnings += cautions.about_device(config, base)
        if measured is not None and measured.start is not None:
            warnings += cautions.about_start(config, measured.start, embedding_table(base))
    warnings += _about_cost(found, base)
    return replace(found, rows=_table(config, found, tokens, base, tokenizer), warnings=warnings)


def _base(config: TrainConfig, *, may_load: bool) -> BaseModel | None:
    """The model where it is in memory, may be loaded, or is quickly loaded."""
    if base := loaded_model(config.model, device=config.device, dtype=config.dtype):
        return base
    weights = sum(file.stat().st_size for file in Path(locate(config.model)).glob("*.safetensors"))
    if may_load or 0 < weights <= CHEAP_BYTES:
        return load_model(config.model, device=config.device, dtype=config.dtype)
    return None


# --------------------------------------------------------------- measuring


def _measure(
    config: TrainConfig, base: BaseModel, tokens: TokenisedTask, *, start: FloatArray | None,
    clock: Callable[[], float],
) -> _Measured:
    """Two real steps and a look at a few rows; what larger batches take is worked out by their tokens."""
    rows = config.batch_size * config.accumulation
    tried = min(rows, TRIED_ROWS)
    small = config if tried == rows else config.with_changes(
        batch_size=min(config.batch_size, tried), accumulation=1, steps=config.steps
    )
    run, layout, step = trial(small, base, tokens, start=start)
    initial = run.method.lead().detach().clone() if run.config.method == "prompt" else None  # type: ignore[union-attr]
    kept = _Kept(run.method.base)
    with kept:
        first = step()
    taken = []
    for _ in range(2):
        _wait(base)
        began = clock()
        step()
        _wait(base)
        taken.append(clock() - began)
    per_step = _tokens_per_step(config, tokens)
    larger = per_step / max(1, _tokens_per_step(small, tokens))
    part = min(larger, max(1.0, PASS_TOKENS / max(1, first.tokens)))
    examples = sorted(tokens.splits["validation"], key=lambda e: len(e.context))
    sample = examples[::max(1, len(examples) // SCORED_ROWS)][:SCORED_ROWS]
    _wait(base)
    began = clock()
    evaluate(run.method.base, run.method.lead(), sample, tokens.label_ids, layout=layout)
    a_row = (clock() - began) / len(sample)
    tests = 1 + 2 + (1 + config.shots if config.shots else 0)      # the prompt, a hand-written one, none, few-shot
    return _Measured(
        layout=layout, trainable_parameters=sum(p.numel() for p in run.method.parameters()),
        tokens=round(first.tokens * larger),
        passes=max(config.accumulation, math.ceil(first.tokens * larger / PASS_TOKENS)),
        step_seconds=min(taken) * larger,
        look_seconds=a_row * min(VALIDATION_ROWS, len(tokens.splits["validation"])),
        test_seconds=a_row * tests * len(tokens.splits["test"]), activation_bytes=round(kept.bytes * part),
        start=initial,
    )


class _Kept:
    """Counts the bytes that a forward pass keeps for the backward pass, weights of the model left out."""

    def __init__(self, base: BaseModel) -> None:
        tensors = (*base.module.parameters(), *base.module.buffers())
        self._known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._seen: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self._seen.values())

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


def _wait(base: BaseModel) -> None:
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)


def _tokens_per_step(config: TrainConfig, tokens: TokenisedTask) -> int:
    """Tokens that an optimiser step feeds the model, prompts counted, as packed lines: the mean of a few steps."""
    examples = tokens.splits["train"]
    order = Order(len(examples), batch_size=min(config.batch_size, 512), seed=config.seed)
    fed = given = 0
    for _ in range(3):
        rows = [Row(examples[i].context, (tokens.label_ids[examples[i].label],)) for i in order.next()]
        fed += plan([rows], prompt_length=config.virtual_tokens, layout="packed").tokens
        given += len(rows)
    return round(fed / given * min(config.batch_size * config.accumulation, len(examples)))


def _size(module: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


# ----------------------------------------------------------------- in words


def _init_tokens(config: TrainConfig, tokens: TokenisedTask, tokenizer: Any) -> list[str] | None:
    """The tokens of the text that the prompt begins as, before it is cut or repeated."""
    if config.init != "text" or config.method != "prompt":
        return None
    return [token_text(tokenizer, i) for i in text_token_ids(written_prompt(config, tokens), tokenizer)]


def _start_in_words(config: TrainConfig, init_tokens: list[str] | None) -> str:
    length = config.virtual_tokens
    if init_tokens is None:
        return config.init
    count = len(init_tokens)
    shown = "·".join(init_tokens[:min(count, length, 40)]) + ("…" if min(count, length) > 40 else "")
    if count == length:
        return f"{shown} ({count} tokens, as written)"
    if count > length:
        return f"{shown} (the first {length} of {count} tokens; the rest is cut)"
    return f"{shown} ({count} tokens, repeated {length / count:.3g} times to fill {length})"


def _table(
    config: TrainConfig, found: Preflight, tokens: TokenisedTask, base: BaseModel | None, tokenizer: Any
) -> list[tuple[str, str]]:
    unknown = "unknown until the model is loaded"
    splits = ", ".join(f"{count:,} {split}" for split, count in found.split_rows.items())
    lost = [f"{n:,} {how}" for n, how in ((found.dropped_rows, "left out"), (found.cut_rows, "cut")) if n]
    trainable = unknown
    if found.trainable_parameters is not None and found.model_parameters:
        share = found.trainable_parameters / found.model_parameters
        trainable = f"{found.trainable_parameters:,} ({share:.3%} of the model's {found.model_parameters:,})"
    rows = [
        ("model", f"{base.name} on {base.device} in {str(base.dtype).removeprefix('torch.')}" if base
         else f"{config.model}, not loaded yet"),
        ("trainable parameters", trainable),
        ("rows", splits + (f" ({', '.join(lost)})" if lost else "")),
        ("labels", ", ".join(f"{label} ({count:,})" for label, count in tokens.task.label_counts("train").items())),
        ("steps", f"{found.steps:,}, which is {found.epochs:.3g} passes over the training rows"),
        ("tokens a step", f"{found.tokens_per_step:,}" + (
            f" in {found.passes_per_step} passes" if (found.passes_per_step or 1) > 1 else "")),
    ]
    if config.method == "prompt":
        rows.append(("start", _start_in_words(config, found.init_tokens)))
    if found.training_seconds is None or found.seconds_per_step is None or found.test_seconds is None:
        return [*rows, ("time", unknown), ("memory", unknown)]
    memory = f"{_bytes(found.model_bytes or 0)} model + about {_bytes(found.activation_bytes or 0)} for a step"
    return [
        *rows, ("layout", found.layout or ""),
        ("time", f"about {duration(found.training_seconds)} ({1000 * found.seconds_per_step:,.0f} ms a step), "
                 f"then {duration(found.test_seconds)} for the final test"),
        ("memory", memory),
    ]


def _about_cost(found: Preflight, base: BaseModel | None) -> list[str]:
    said = []
    test, training = found.test_seconds, found.training_seconds
    if test is not None and training is not None and test > max(60.0, training):
        said.append(
            f"The final test will take about {duration(test)}, longer than training itself: "
            f"{found.split_rows['test']:,} rows, each with every label, for the prompt and for the baselines. "
            "Fewer test rows would tell as much."
        )
    if base is not None and found.activation_bytes is not None:
        free = available_bytes(base.device)
        if found.activation_bytes > 0.8 * free:
            said.append(
                f"A step needs about {_bytes(found.activation_bytes)} beside the model, and {_bytes(free)} are free. "
                "Choose a smaller batch size with more accumulation, shorter rows, or gradient checkpointing."
            )
    return said


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB" if count >= GIGABYTE else f"{max(1, round(count / 1e6))} MB"
