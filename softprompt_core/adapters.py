"""Soft prompts in and out: PEFT folders, NumPy and safetensors files, and our own run folders.

Axis letters: P virtual tokens, H embedding width. Nothing here unpickles, and PEFT itself is not needed: a
PEFT prompt-tuning folder is one JSON file and one matrix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from softprompt_core.config import METHOD_NAMES, PROMPT_METHODS, config_from_json, limits, parse_config
from softprompt_core.errors import UserError
from softprompt_core.records import FloatArray
from softprompt_core.store import write_aside, write_json, write_tensors

if TYPE_CHECKING:
    from softprompt_core.models import BaseModel

Kind = Literal["peft_prompt_tuning", "peft_p_tuning", "npy", "safetensors", "run"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FACTS = "softprompt.json"
MATRIX_KEYS = ("prompt_embeddings", "learned_embedding")
"""Names of the prompt in a file with several tensors: PEFT's, and the well-known SoftEmbedding's."""
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
RUN_FILES = ("prompt.safetensors", "live.safetensors", "snapshots.safetensors", "run.json")
MAX_JSON_BYTES = 4 << 20
ALLOWED = (
    "a PEFT prompt-tuning folder (adapter_config.json and adapter_model.safetensors), a run folder, "
    "a .npy matrix or a .safetensors file"
)
README = """# A soft prompt

{rows} virtual tokens, each {width} numbers wide, for one frozen {kind}: the one that
`base_model_name_or_path` in `adapter_config.json` names. `softprompt.json` holds the template its texts were
put in and the labels it was trained to answer with.

```python
from peft import PeftConfig, PeftModel
from transformers import {loader}, AutoTokenizer

folder = "."
name = PeftConfig.from_pretrained(folder).base_model_name_or_path
model = PeftModel.from_pretrained({loader}.from_pretrained(name), folder)
tokenizer = AutoTokenizer.from_pretrained(name)
```

Give the model one text at a time, or pad on the right: PEFT puts the prompt before left padding, which moves
the text away from it and changes the answer.
"""
LOADERS = {
    False: {"kind": "causal language model", "loader": "AutoModelForCausalLM"},
    True: {"kind": "encoder–decoder", "loader": "AutoModelForSeq2SeqLM"},
}
"""What README says of the model, by whether it is an encoder–decoder."""


@dataclass(frozen=True)
class ImportedPrompt:
    """A prompt from outside. prompt: [P, H] float32; `base_model` is None when the file does not name it.

    facts: what came with it, as far as known: template, labels, init_text, step, config, and `notes`,
    sentences that its reader should see.
    """

    prompt: FloatArray
    base_model: str | None
    kind: Kind
    facts: dict[str, Any] = field(default_factory=dict)


def export_peft(
    prompt: FloatArray,
    folder: Path | str,
    *,
    base_model: str,
    tokenizer_name: str | None = None,
    init_text: str | None = None,
    template: str | None = None,
    labels: Sequence[str] = (),
    is_encoder_decoder: bool = False,
    facts: dict[str, Any] | None = None,
) -> Path:
    """The folder, now holding a prompt that `peft.PeftModel.from_pretrained(base, folder)` loads.

    prompt: [P, H]. base_model: a hub id or a folder, written as given; tokenizer_name: the same unless given.
    is_encoder_decoder: what the base model is, which decides PEFT's task type; the folder holds P rows all the same
    (`num_transformer_submodules` 1), where PEFT by itself would write 2 P and use the first P.
    facts (JSON values) go to softprompt.json, as do template, labels and init_text, which win over them. The
    adapter config, which makes the folder complete, is written last.

    Raises UserError when the prompt is not a finite matrix, or when the folder holds something else.
    """
    matrix = _checked_matrix(prompt, origin="The prompt")
    target = Path(folder)
    rows, width = matrix.shape
    try:
        target.mkdir(parents=True, exist_ok=True)
        taken = [n for n in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "README.md") if (target / n).exists()]
        if taken and not (target / FACTS).exists():
            raise UserError(
                f"The folder {str(folder)!r} already holds {taken[0]}. Choose an empty or new one."
            )
        (target / ADAPTER_CONFIG).unlink(missing_ok=True)
        known = {"template": template, "labels": list(labels) or None, "init_text": init_text}
        given = {key: value for key, value in known.items() if value is not None}
        fixed = {"base_model": base_model, "virtual_tokens": rows, "width": width}
        write_json(target / FACTS, {**(facts or {}), **given, **fixed})
        with write_aside(target / "README.md") as file:
            file.write(README.format(rows=rows, width=width, **LOADERS[is_encoder_decoder]))
        write_tensors(target / ADAPTER_WEIGHTS, {"prompt_embeddings": matrix})
        adapter = _adapter_config(matrix, base_model, tokenizer_name, init_text)
        if is_encoder_decoder:
            adapter["task_type"] = "SEQ_2_SEQ_LM"
        write_json(target / ADAPTER_CONFIG, adapter)
    except OSError as error:
        raise UserError(
            f"The folder {str(folder)!r} cannot be written ({error.strerror or error}). Choose another one."
        ) from None
    return target


def import_prompt(path: Path | str) -> ImportedPrompt:
    """The prompt at a path: a PEFT folder, one of our run folders, a .npy matrix or a .safetensors file.

    P-tuning folders are read as the vectors they store (the encoder that made them is not kept by PEFT),
    which serves prediction and reading; their note says so.

    Raises UserError for anything else, for pickled weights, and for damaged or ill-shaped files.
    """
    source = Path(path)
    if os.path.isdir(source):       # unlike Path.is_dir, no error for a name too long to be one
        if (source / ADAPTER_CONFIG).is_file():
            return _import_peft(source)
        if (source / "config.json").is_file() and any((source / name).is_file() for name in RUN_FILES):
            return _import_run(source)
        _refuse_pickles(source.iterdir())
        raise UserError(f"The folder {str(path)!r} holds no soft prompt that is known here. Give {ALLOWED}.")
    if not os.path.isfile(source):
        raise UserError(f"There is nothing at {str(path)!r}. Give {ALLOWED}.")
    _refuse_pickles([source])
    if source.suffix == ".npy":
        return ImportedPrompt(_read_npy(source), None, "npy")
    if source.suffix == ".safetensors":
        return ImportedPrompt(_read_safetensors(source)[0], None, "safetensors")
    raise UserError(f"{source.name!r} is of no kind that can be opened. Give {ALLOWED}.")


def check_fits(prompt: FloatArray, base: BaseModel) -> None:
    """Nothing, when the prompt [P, H] can stand before this model's text.

    Raises UserError when its width is another model's or it fills the whole context.
    """
    rows, width = prompt.shape
    if width != base.hidden_size:
        raise UserError(
            f"The prompt is {width} wide and the model {base.name!r} needs {base.hidden_size}. "
            "Choose the model that the prompt was trained on."
        )
    if base.context is not None and rows >= base.context:
        raise UserError(
            f"The prompt has {rows} virtual tokens and the model {base.name!r} reads {base.context} tokens "
            "in all, so no text would fit. Choose a shorter prompt or a model with a longer context."
        )


# --------------------------------------------------------------------- folders


def _adapter_config(
    matrix: FloatArray, base_model: str, tokenizer_name: str | None, init_text: str | None
) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(matrix),
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM" if init_text is None else "TEXT",
        "prompt_tuning_init_text": init_text,
        "task_type": "CAUSAL_LM",
        "token_dim": matrix.shape[1],
        # PEFT asks for a tokenizer whenever there is a text, but opens it only to start a training.
        "tokenizer_name_or_path": None if init_text is None else tokenizer_name or base_model,
    }


def _import_peft(folder: Path) -> ImportedPrompt:
    config = _read_object(folder / ADAPTER_CONFIG)
    kinds: dict[str, Kind] = {"PROMPT_TUNING": "peft_prompt_tuning", "P_TUNING": "peft_p_tuning"}
    given = config.get("peft_type")
    kind = kinds.get(given) if isinstance(given, str) else None
    if kind is None:
        raise UserError(
            f"{folder.name!r} holds a PEFT adapter of the type {_short(given)}, which is no sequence of "
            "virtual tokens; allowed are PROMPT_TUNING and P_TUNING. Train one of these."
        )
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        _refuse_pickles(folder.iterdir())
        raise UserError(f"{folder.name!r} has no {ADAPTER_WEIGHTS}. Save it again with save_pretrained.")
    prompt, _ = _read_safetensors(weights)
    facts: dict[str, Any] = {}
    if (folder / FACTS).is_file():
        facts |= _read_object(folder / FACTS)
    if isinstance(config.get("prompt_tuning_init_text"), str):
        facts.setdefault("init_text", config["prompt_tuning_init_text"])
    notes = []
    expected = config.get("num_virtual_tokens")
    submodules = config.get("num_transformer_submodules")
    has_two_copies = submodules == 2 or (submodules is None and config.get("task_type") == "SEQ_2_SEQ_LM")
    if has_two_copies and isinstance(expected, int) and len(prompt) == 2 * expected:
        prompt = prompt[:expected]
        notes.append(
            "PEFT stored the rows twice, for encoder and decoder; only the first, trained copy is kept."
        )
    if isinstance(expected, int) and len(prompt) != expected:
        raise UserError(
            f"{folder.name!r} promises {expected} virtual tokens and holds {len(prompt)}, so it is damaged "
            "or mixed from two adapters. Save the adapter again."
        )
    if kind == "peft_p_tuning":
        notes.append(
            "This is the output of a p-tuning encoder as PEFT stored it: it predicts the same, but training "
            "it further moves the vectors directly, not the encoder."
        )
    base_model = config.get("base_model_name_or_path")
    return ImportedPrompt(
        prompt,
        base_model if isinstance(base_model, str) and base_model else None,
        kind,
        {**facts, "notes": notes},
    )


def _import_run(folder: Path) -> ImportedPrompt:
    """The selected prompt of a run, else the newest; see store.py for the files."""
    origin = str(folder / "config.json")
    config = parse_config(config_from_json(_read_text(folder / "config.json"), origin=origin))
    for name in ("prompt.safetensors", "live.safetensors"):
        if (folder / name).is_file():
            prompt, header = _read_safetensors(folder / name)
            step = header.get("step", "")
            break
    else:
        if not (folder / "snapshots.safetensors").is_file():
            if config.method not in PROMPT_METHODS:
                raise UserError(
                    f"The run {folder.name!r} was trained with {METHOD_NAMES[config.method]}, which has no virtual "
                    "tokens. Give a run of the method prompt or p_tuning."
                )
            raise UserError(
                f"The run {folder.name!r} has no prompt yet. Wait for its first steps, or give another."
            )
        tensor = _read_tensor(folder / "snapshots.safetensors", "prompts")
        if tensor.ndim != 3 or not len(tensor):
            raise UserError(f"The snapshots of the run {folder.name!r} are damaged. Copy its folder again.")
        prompt, step = _checked_matrix(tensor[-1], origin="snapshots.safetensors"), ""
    start = _read_object(folder / "facts.json") if (folder / "facts.json").is_file() else {}
    return ImportedPrompt(
        prompt,
        config.model,
        "run",
        {
            "template": config.template,
            "init_text": config.init_text,
            "labels": start.get("labels"),
            "text_column": start.get("text_column"),
            "step": int(step) if step.isdecimal() else None,
            "config": config.model_dump(),
            "notes": [],
        },
    )


def _refuse_pickles(paths: Any) -> None:
    for path in sorted(paths):
        if path.suffix.lower() in PICKLED:
            raise UserError(
                f"{path.name!r} is a pickle, which can run any program when opened, so it is not; where you "
                "trust it, convert it with torch.load(file, weights_only=True) and safetensors.torch."
                'save_file({"prompt_embeddings": tensor}, "prompt.safetensors").'
            )


# ----------------------------------------------------------------------- files


def _read_npy(path: Path) -> FloatArray:
    try:
        # Mapped, so that the shape is checked before a huge or false array could fill the memory; never as a
        # zip or a pickle, which np.load would try.
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise UserError(
            f"{path.name!r} is no plain NumPy matrix ({_short(error)}). Save it with np.save as float32."
        ) from None
    return _checked_matrix(array, origin=repr(path.name))


def _read_safetensors(path: Path) -> tuple[FloatArray, dict[str, str]]:
    """(the prompt [P, H] float32, header facts): the tensor with a known name, or the only matrix."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    named = [key for key in shapes if key.rpartition(".")[2] in MATRIX_KEYS]
    matrices = named or [key for key, shape in shapes.items() if len(shape) == 2]
    if len(matrices) != 1:
        raise UserError(
            f"{path.name!r} holds {len(shapes)} tensors, {len(matrices)} of which could be the prompt. Save "
            'the prompt alone, as {"prompt_embeddings": a matrix of virtual tokens by width}.'
        )
    _check_shape(shapes[matrices[0]], origin=repr(path.name))
    return _checked_matrix(_read_tensor(path, matrices[0]), origin=repr(path.name)), header


def _read_tensor(path: Path, key: str) -> np.ndarray:
    """One tensor of a safetensors file; bfloat16, which NumPy lacks, comes as float32."""
    try:
        with safe_open(path, framework="numpy") as file:
            if file.get_slice(key).get_dtype() != "BF16":
                return file.get_tensor(key)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key).float().numpy()
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def _check_shape(shape: tuple[int, ...], *, origin: str) -> None:
    most = int(limits("virtual_tokens")["le"])
    if len(shape) != 2 or not 1 <= shape[0] <= most or shape[1] < 1:
        given = " by ".join(map(str, shape)) or "a single number"
        raise UserError(
            f"{origin} has the shape {given}; a soft prompt is a matrix of 1 to {most} virtual tokens by the "
            "model's embedding width. Save just that matrix."
        )


def _checked_matrix(array: np.ndarray, *, origin: str) -> FloatArray:
    """The matrix in float32, copied. Raises UserError unless it is finite numbers in the shape of a
    prompt."""
    array = np.asarray(array)
    _check_shape(array.shape, origin=origin)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{origin} holds {array.dtype} values; floating-point numbers are needed. Save it as float32."
        )
    with np.errstate(over="ignore"):
        matrix = np.array(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise UserError(
            f"{origin} holds NaN or infinite numbers (first in virtual token {bad[0]}), so it is of no "
            "use. Train again with a lower learning rate, or take an earlier snapshot."
        )
    return matrix


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path.name!r} is not valid JSON ({_short(error)}). Copy or save the folder again."
        ) from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path.name!r} holds a {type(value).__name__}, not an object. Save the folder again."
        )
    return value


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(
                f"{path.name!r} is over {MAX_JSON_BYTES >> 20} MB, too long for settings. Check the file."
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path.name!r} cannot be read ({_short(error)}). Copy or save the folder again."
        ) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path.name!r} is damaged and cannot be read as safetensors ({_short(error)}). Copy or save it anew."
    )


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"
