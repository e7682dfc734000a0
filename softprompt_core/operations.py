"""What can be done with a run, from page and command line alike: go on, fork, test, use, read, export, import."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt_core.config import METHOD_LR, PROMPT_METHODS, TrainConfig, parse_config
from softprompt_core.environment import default_runs_dir
from softprompt_core.errors import UserError
from softprompt_core.records import ENDED, EndRecord, FloatArray, LogRecord, RunInfo, Snapshot, StartRecord
from softprompt_core.sources import with_absolute_paths
from softprompt_core.store import Store

if TYPE_CHECKING:
    from softprompt_core.data import Task
    from softprompt_core.methods import Lead
    from softprompt_core.models import BaseModel
    from softprompt_core.preflight import Preflight

MOST_TEXTS = 10_000
KEPT_IN_FORKS = ("model", "method", "virtual_tokens", "lora_rank", "init", "init_run")
"""Settings that decide the shapes of what a run has learned, and where it began."""


def listing(info: RunInfo) -> dict[str, Any]:
    """A run as lists show it."""
    return {
        "run_id": info.run_id, "name": info.name, "status": info.status, "group_id": info.group_id,
        "created": info.created, "step": info.step, "steps": info.steps, "reason": info.reason,
        "config": info.config, "result": info.result,
    }


def check(config: TrainConfig, store: Store | None = None) -> None:
    """Raises UserError for what can be told before a run is made: a slip takes no time, leaves no failed run.

    store: where init from_run finds the run to begin at; left out, that is not checked.
    """
    from softprompt_core.data import load_task, template_of
    from softprompt_core.models import choose_device, locate

    locate(config.model)
    template_of(load_task(config), config.template)
    choose_device(config.device)
    if config.init == "from_run" and store is not None:
        _check_start(config, store)


def _check_start(config: TrainConfig, store: Store) -> None:
    from softprompt_core.models import load_model
    from softprompt_core.starts import check_start

    source = str(config.init_run)
    width = store.prompt(source).shape[1]
    if config.model != store.config(source).model:
        width = load_model(config.model, device=config.device, dtype=config.dtype).hidden_size
    check_start(store.prompt(source), config, width=width)


def with_start(store: Store, values: dict[str, Any]) -> dict[str, Any]:
    """Settings with as many virtual tokens as the run that init from_run names has, where they say nothing of it."""
    source = values.get("init_run")
    if values.get("init") != "from_run" or not source or values.get("virtual_tokens") is not None:
        return values
    return {**values, "virtual_tokens": len(store.prompt(str(source)))}


# ---------------------------------------------------------------- going on


def prepare_resume(store: Store, run_id: str, *, steps: int | None = None) -> TrainConfig:
    """The settings with which an ended run goes on when `Runner.resume` is called next, now kept in the run.

    steps: how many it is to have in all; left out, as many as it was to have. Raises UserError, with nothing changed,
    when it cannot go on.
    """
    from softprompt_core.data import load_task

    info, config = store.run(run_id), store.config(run_id)
    if info.status not in ENDED:
        raise UserError(f"Run {run_id!r} is {info.status} already. Stop it before you resume it.")
    if "imported_from" in store.facts(run_id):
        raise UserError(
            f"Run {run_id!r} was imported; there is no training to go on with. "
            f"Begin a new run at its prompt: --init from_run --init-run {run_id}."
        )
    is_done = info.status == "done"
    if steps is None and is_done:
        raise UserError(
            f"Run {run_id!r} is done after {info.step} of {info.steps} steps. "
            f"Name a larger number of steps, such as --steps {2 * info.steps}, to train it on."
        )
    if steps is not None:
        config = config.with_changes(steps=steps, epochs=None)
        reached = max(info.step, info.steps) if is_done else info.step
        if config.steps <= reached:
            raise UserError(
                f"steps: {config.steps} was given, but run {run_id!r} has reached {reached} already. "
                f"Name a larger number, such as {2 * reached}, to train it on."
            )
    check(config)
    _require_same_data(store, run_id, load_task(config))
    if steps is not None:
        store.change_config(run_id, config)
    return config


def _require_same_data(store: Store, run_id: str, task: Task) -> None:
    """Raises UserError when the data of a run is no longer what it was trained on."""
    trained_on = store.facts(run_id).get("data_hash")
    if trained_on and task.fingerprint != trained_on:
        raise UserError(
            f"The data of run {run_id!r} ({task.name}) is no longer what it was trained on. Put it back; or name other "
            "data with 'eval --data', or fork the run to train on with it."
        )


def fork_config(store: Store, run_id: str, *, step: int, changes: Mapping[str, Any]) -> TrainConfig:
    """The settings of a new run that begins where another was after a step; changes: settings to replace.

    Raises UserError for mistakes, and changes that what was learned would not fit.
    """
    parent = store.config(run_id)
    changed = dict(changes)
    if "steps" in changed:
        changed.setdefault("epochs", None)
    changed.setdefault("name", f"{store.run(run_id).name} · from step {step}"[:80])
    config = parent.with_changes(**changed)
    refused = [key.replace("_", " ") for key in KEPT_IN_FORKS if getattr(config, key) != getattr(parent, key)]
    if refused:
        raise UserError(
            f"A fork keeps the {', '.join(refused)} of run {run_id!r}, because it goes on with what that has learned. "
            "Leave those settings out, or train a new run."
        )
    return config.with_changes(init="from_run", init_run=run_id) if config.method == "prompt" else config


def fork(
    store: Store, run_id: str, *, step: int | None = None, changes: Mapping[str, Any] | None = None,
    keeps_optimizer: bool = False,
) -> str:
    """The id of a new run that begins where another was at a checkpoint; `Runner.resume` starts it.

    step: left out, that of the newest checkpoint. Raises UserError when there is none, or the settings do not fit.
    """
    saved = store.checkpoint(run_id, step=step)
    if saved is None:
        raise UserError(
            f"Run {run_id!r} has no checkpoint to fork. "
            f"Begin a new run at its prompt: --init from_run --init-run {run_id}."
        )
    config = fork_config(store, run_id, step=saved.step, changes=changes or {})
    if keeps_optimizer and config.optimizer != store.config(run_id).optimizer:
        raise UserError(
            f"The state of {store.config(run_id).optimizer} means nothing to {config.optimizer}. "
            "Keep the optimiser or leave its state behind."
        )
    check(config)
    from softprompt_core.running import fork_of

    new = store.create(with_absolute_paths(config), status="stopped")
    store.append([
        fork_of(saved, new, keeps_optimizer=keeps_optimizer),
        LogRecord(run_id, "info", f"forked after step {saved.step} as run {new}"),
    ])
    return new


# ------------------------------------------------------- using what was learned


def preflight(config: TrainConfig, *, store: Store | None = None, may_load: bool = False) -> Preflight:
    """What a run with these settings will be, and what about them is likely a slip; nothing is trained or kept.

    store: where the run of init from_run lies; may_load: whether a large model may be loaded to measure time and
    memory. Raises UserError for what `check` and the data's tokens raise it for.
    """
    from softprompt_core.preflight import preflight as made

    check(config)
    start = store.prompt(config.init_run) if store is not None and config.init_run is not None else None
    return made(config, may_load=may_load, start=start)


def base_of(store: Store, run_id: str) -> BaseModel:
    """The frozen model a run was trained on, loaded or already in memory.

    Raises UserError when another model lies where it lay.
    """
    from softprompt_core.models import load_model

    config, trained_on = store.config(run_id), store.facts(run_id).get("model_revision")
    base = load_model(config.model, device=config.device, dtype=config.dtype)
    if trained_on and base.revision != trained_on:
        raise UserError(
            f"The model at {config.model!r} is not the one that run {run_id!r} was trained on (now {base.revision}; "
            f"it was {trained_on}): what it says with this prompt means nothing. Put that model back, or train again."
        )
    return base


def learned(store: Store, run_id: str) -> tuple[BaseModel, Lead]:
    """(the model that a run's rows go through, what stands before them): the frozen one with the run's prompt.

    For other methods with their prefix, or a copy that has learned and nothing before the rows. Raises UserError
    while nothing has been kept yet.
    """
    import torch

    from softprompt_core.methods import restored_method

    config, base = store.config(run_id), base_of(store, run_id)
    if config.method in PROMPT_METHODS:
        return base, torch.from_numpy(store.prompt(run_id))
    method = restored_method(config, base, store.weights(run_id))
    return method.base, method.lead()


def start_of(store: Store, run_id: str) -> FloatArray | None:
    """The prompt before its first step, [P, H]; None where it was not kept (imported prompts)."""
    steps, prompts = store.snapshots(run_id)
    return prompts[0] if len(steps) and int(steps[0]) == 0 else None


def labels_of(store: Store, run_id: str) -> tuple[list[str], str]:
    """(labels, text column) of a run. Raises UserError when it has none: not started yet, or imported."""
    facts = store.facts(store.run(run_id).run_id)
    if not facts.get("labels"):
        raise UserError(
            f"Run {run_id!r} has no labels to choose from. A run gets them with its first step; an imported "
            "prompt only from a folder that this program exported."
        )
    return list(facts["labels"]), str(facts.get("text_column") or "text")


def evaluate_run(store: Store, run_id: str, *, data: str | None = None) -> dict[str, Any]:
    """Loss, perplexity, accuracy and macro-F1 of what a run learned on the test rows of `data`, or its own."""
    from softprompt_core.data import load_evaluation_task, load_task
    from softprompt_core.evaluation import document, evaluate
    from softprompt_core.tokenising import longest_row, tokenise

    config, base = store.config(run_id), base_of(store, run_id)
    labels, _ = labels_of(store, run_id)
    is_own = data is None or data == config.data
    task = load_task(config) if is_own else load_evaluation_task(config, data=str(data), labels=labels)
    if is_own:
        _require_same_data(store, run_id, task)
    tokens = tokenise(
        task, base.tokenizer, config, context=base.context, is_encoder_decoder=base.is_encoder_decoder
    )
    model, lead = learned(store, run_id)
    found = evaluate(
        model, lead, tokens.splits["test"], tokens.label_ids, padded_to=longest_row(config, base.context),
        layout="peft" if config.peft_positions else "concatenated",
    )
    return document(found)


def predict_with_run(store: Store, run_id: str, rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Label, scores and shares of each row; rows hold every column that the run's template names."""
    from softprompt_core import serving

    if not 1 <= len(rows) <= MOST_TEXTS:
        raise UserError(f"{len(rows)} texts were given; allowed are 1 to {MOST_TEXTS} at once. Send them in parts.")
    config, (labels, text_column) = store.config(run_id), labels_of(store, run_id)
    model, lead = learned(store, run_id)
    return serving.predict(model, lead, rows, config=config, labels=labels, text_column=text_column)


def text_rows(store: Store, run_id: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Rows of plain texts in the column that a run reads. Raises UserError for a blank text."""
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError("A text to classify is blank or missing. Give one or more texts with words in them.")
    _, column = labels_of(store, run_id)
    return [{column: text} for text in texts]


def inspect_run(store: Store, run_id: str, **switches: Any) -> dict[str, Any]:
    """The `inspect` document of a run; switches: top, metric, correction, whole_words."""
    prompt = store.prompt(run_id)       # before the model is loaded: some runs have none
    return inspect_prompt(base_of(store, run_id), prompt, start=start_of(store, run_id), **switches)


def inspect_prompt(
    base: BaseModel, prompt: FloatArray, *, start: FloatArray | None = None, **switches: Any
) -> dict[str, Any]:
    """The `inspect` document of a prompt [P, H] on a model."""
    from softprompt_core.inspection.readings import inspection_document
    from softprompt_core.inspection.vocabulary import vocabulary_of

    return inspection_document(prompt, vocabulary_of(base), start=start, **switches)


def export_run(store: Store, run_id: str, folder: Path) -> Path:
    """The folder, now holding what the run learned so that peft.PeftModel.from_pretrained loads it.

    A prompt that p-tuning's encoder made is written as a prompt: PEFT keeps no encoder either, and a folder that
    says P_TUNING would promise that training can go on from it. Full fine-tuning gives a model for transformers.
    """
    from softprompt_core.adapters import export_peft
    from softprompt_core.exports import export_method
    from softprompt_core.methods import restored_method
    from softprompt_core.models import locate

    config, facts = store.config(run_id), store.facts(run_id)
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        what = "not empty" if folder.is_dir() else "a file"
        raise UserError(f"The folder {str(folder)!r} is {what}. Name a new one; nothing is overwritten.")
    kept = {
        "config": config.model_dump(), "text_column": facts.get("text_column"), "run_id": run_id,
        "result": store.run(run_id).result,
    }
    if config.method not in PROMPT_METHODS:
        method = restored_method(config, base_of(store, run_id), store.weights(run_id))
        shown = {"template": config.template, "labels": list(facts.get("labels") or ())}
        return export_method(method, folder, base_model=locate(config.model), facts={**kept, **shown})
    export_peft(
        store.prompt(run_id), folder, base_model=locate(config.model), tokenizer_name=locate(config.model),
        init_text=facts.get("hand_written_prompt") if (config.method, config.init) == ("prompt", "text") else None,
        template=config.template, labels=facts.get("labels") or (),
        is_encoder_decoder=bool(facts.get("is_encoder_decoder")),
        facts=kept,
    )
    return folder


def import_folder(store: Store, path: Path, *, model: str | None = None, name: str | None = None) -> str:
    """The id of a new run that holds a prompt from elsewhere: a PEFT folder, .npy or safetensors."""
    from softprompt_core.adapters import check_fits, import_prompt
    from softprompt_core.models import load_model

    found = import_prompt(path)
    kept = found.facts.get("config")
    saved: dict[str, Any] = kept if isinstance(kept, dict) else {}
    chosen = model or saved.get("model") or found.base_model
    if not chosen:
        raise UserError(f"{path.name!r} does not say which model it belongs to. Name it with --model.")
    values = {k: v for k, v in saved.items() if k in TrainConfig.model_fields}
    values |= {"model": chosen, "data": saved.get("data", "imported"), "virtual_tokens": len(found.prompt)}
    if values.get("method") not in (None, "prompt"):        # p-tuning's encoder did not come along
        values |= {"method": "prompt", "lr": METHOD_LR["prompt"]}
    config = parse_config(values | {"name": name or f"imported · {path.name}"[:80]})
    base = load_model(config.model, device=config.device, dtype=config.dtype)
    check_fits(found.prompt, base)
    run_id = store.create(with_absolute_paths(config), status="running")
    facts = {
        "labels": found.facts.get("labels"), "text_column": found.facts.get("text_column"),
        "is_encoder_decoder": base.is_encoder_decoder,
    }
    source = f"imported from {path.name} ({found.kind})"
    store.append([
        StartRecord(run_id, {**facts, "imported_from": str(path), "model_revision": base.revision}),
        LogRecord(run_id, "info", source),
        *(LogRecord(run_id, "info", note) for note in found.facts.get("notes", ())),
        Snapshot(run_id, 0, found.prompt, kind="selected"),
        EndRecord(run_id, "done", source, {"steps": 0, "trainable_parameters": int(found.prompt.size)}),
    ])
    return run_id


def command_for(config: TrainConfig, *, runs_dir: Path | None = None) -> str:
    """The command line that repeats a run: only what differs from the defaults; runs_dir: where runs are kept."""
    import shlex

    parts = ["softprompt", "train", "--data", config.data]
    for key, info in TrainConfig.model_fields.items():
        value = getattr(config, key)
        default = METHOD_LR[config.method] if key == "lr" else info.default
        if key != "data" and value != default and value is not None:
            parts += [f"--{key.replace('_', '-')}", str(value)]
    if runs_dir is not None and runs_dir.absolute() != default_runs_dir().absolute():
        parts += ["--runs-dir", str(runs_dir)]
    return shlex.join(parts)
