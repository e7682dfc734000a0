"""What can be done with a finished run, from page and command line alike: test, use, read, export, import."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt_core.config import TrainConfig, parse_config
from softprompt_core.errors import UserError
from softprompt_core.records import EndRecord, FloatArray, LogRecord, RunInfo, Snapshot, StartRecord
from softprompt_core.store import Store

if TYPE_CHECKING:
    from softprompt_core.models import BaseModel

MOST_TEXTS = 10_000


def listing(info: RunInfo) -> dict[str, Any]:
    """A run as lists show it."""
    return {
        "run_id": info.run_id, "name": info.name, "status": info.status, "group_id": info.group_id,
        "created": info.created, "step": info.step, "steps": info.steps, "reason": info.reason,
        "config": info.config, "result": info.result,
    }


def check(config: TrainConfig) -> None:
    """Raises UserError for what can be told before a run is made: a slip takes no time, leaves no failed run."""
    from softprompt_core.data import load_task, template_of
    from softprompt_core.models import choose_device, locate

    locate(config.model)
    template_of(load_task(config), config.template)
    choose_device(config.device)


def base_of(store: Store, run_id: str) -> BaseModel:
    """The frozen model a run was trained on, loaded or already in memory."""
    from softprompt_core.models import load_model

    config = store.config(run_id)
    return load_model(config.model, device=config.device, dtype=config.dtype)


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
    """Loss, perplexity, accuracy and macro-F1 of a run's prompt on the test rows of `data`, or its own."""
    import torch

    from softprompt_core.data import load_evaluation_task, load_task
    from softprompt_core.evaluation import document, evaluate
    from softprompt_core.tokenising import tokenise

    config, base = store.config(run_id), base_of(store, run_id)
    labels, _ = labels_of(store, run_id)
    is_own = data is None or data == config.data
    task = load_task(config) if is_own else load_evaluation_task(config, data=str(data), labels=labels)
    tokens = tokenise(task, base.tokenizer, config, context=base.context)
    prompt = torch.from_numpy(store.prompt(run_id))
    found = evaluate(base, prompt, tokens.splits["test"], tokens.label_ids, layout="concatenated")
    return document(found)


def predict_with_run(store: Store, run_id: str, rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Label, scores and shares of each row; rows hold every column that the run's template names."""
    import torch

    from softprompt_core import serving

    if not 1 <= len(rows) <= MOST_TEXTS:
        raise UserError(f"{len(rows)} texts were given; allowed are 1 to {MOST_TEXTS} at once. Send them in parts.")
    config, (labels, text_column) = store.config(run_id), labels_of(store, run_id)
    prompt = torch.from_numpy(store.prompt(run_id))
    return serving.predict(
        base_of(store, run_id), prompt, rows, config=config, labels=labels, text_column=text_column
    )


def text_rows(store: Store, run_id: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Rows of plain texts in the column that a run reads. Raises UserError for a blank text."""
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError("A text to classify is blank or missing. Give one or more texts with words in them.")
    _, column = labels_of(store, run_id)
    return [{column: text} for text in texts]


def inspect_run(store: Store, run_id: str, **switches: Any) -> dict[str, Any]:
    """The `inspect` document of a run; switches: top, metric, correction, whole_words."""
    return inspect_prompt(base_of(store, run_id), store.prompt(run_id), start=start_of(store, run_id), **switches)


def inspect_prompt(
    base: BaseModel, prompt: FloatArray, *, start: FloatArray | None = None, **switches: Any
) -> dict[str, Any]:
    """The `inspect` document of a prompt [P, H] on a model."""
    from softprompt_core.inspection.readings import inspection_document
    from softprompt_core.inspection.vocabulary import vocabulary_of

    return inspection_document(prompt, vocabulary_of(base), start=start, **switches)


def export_run(store: Store, run_id: str, folder: Path) -> Path:
    """The folder, now holding the run's prompt so that peft.PeftModel.from_pretrained loads it."""
    from softprompt_core.adapters import export_peft
    from softprompt_core.models import locate

    config, facts = store.config(run_id), store.facts(run_id)
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        what = "not empty" if folder.is_dir() else "a file"
        raise UserError(f"The folder {str(folder)!r} is {what}. Name a new one; nothing is overwritten.")
    export_peft(
        store.prompt(run_id), folder, base_model=locate(config.model), tokenizer_name=locate(config.model),
        init_text=facts.get("hand_written_prompt") if config.init == "text" else None,
        template=config.template, labels=facts.get("labels") or (),
        facts={
            "config": config.model_dump(), "text_column": facts.get("text_column"), "run_id": run_id,
            "result": store.run(run_id).result,
        },
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
    config = parse_config(values | {"name": name or f"imported · {path.name}"[:80]})
    base = load_model(config.model, device=config.device, dtype=config.dtype)
    check_fits(found.prompt, base)
    run_id = store.create(config, status="running")
    facts = {"labels": found.facts.get("labels"), "text_column": found.facts.get("text_column")}
    source = f"imported from {path.name} ({found.kind})"
    store.append([
        StartRecord(run_id, {**facts, "imported_from": str(path), "model_revision": base.revision}),
        LogRecord(run_id, "info", source),
        Snapshot(run_id, 0, found.prompt, kind="selected"),
        EndRecord(run_id, "done", source, {"steps": 0, "trainable_parameters": int(found.prompt.size)}),
    ])
    return run_id


def command_for(config: TrainConfig) -> str:
    """The command line that repeats a run: only what differs from the defaults."""
    import shlex

    parts = ["softprompt", "train", "--data", config.data]
    for key, info in TrainConfig.model_fields.items():
        value = getattr(config, key)
        if key != "data" and value != info.default and value is not None:
            parts += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(parts)
