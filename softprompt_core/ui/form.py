"""The Train form: one component a setting, its default, limits and help read from the settings model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from softprompt_core.config import INITS, METHOD_NAMES, METHODS, TrainConfig, limits, parse_config

INIT_NAMES = {
    "text": "text: the words below",
    "sampled_vocab": "sampled: random words",
    "random": "random: wide as words",
    "random_uniform": "uniform: within ± range",
    "peft_random": "PEFT: as PEFT draws it",
    "class_labels": "labels: the label words",
    "first_rows": "first: rows 0 to P",
    "from_run": "run: another’s prompt",
}
FLOAT_STEP, LR_STEP = 0.05, 0.005


def number(field: str, **look: Any) -> gr.Number:
    """A number field; its limits are shown, and checked by the settings so that all mistakes come at once."""
    info = TrainConfig.model_fields[field]
    look = {"info": _help(field), "step": FLOAT_STEP if info.annotation is float else 1, **look}
    return gr.Number(
        info.default, label=_label(field), elem_id=f"train-{field}", interactive=True,
        min_width=90, **look,
    )


def text(field: str, **look: Any) -> gr.Textbox:
    """A text field; empty means the default."""
    default = TrainConfig.model_fields[field].default
    return gr.Textbox(
        default or "", label=_label(field), info=look.pop("info", _help(field)), elem_id=f"train-{field}",
        interactive=True, **look,
    )


def choice(field: str, choices: Sequence[Any] | None = None, **look: Any) -> gr.Dropdown:
    """A drop-down; its choices are the allowed values unless others are given."""
    info = TrainConfig.model_fields[field]
    return gr.Dropdown(
        list(choices if choices is not None else get_args(info.annotation)),
        value=look.pop("value", info.default), label=_label(field), info=look.pop("info", _help(field)),
        elem_id=f"train-{field}", interactive=True, **look,
    )


def field(name: str) -> gr.Component:
    """The component that fits a setting's type."""
    info = TrainConfig.model_fields[name]
    kind = info.annotation
    if kind is bool:
        return gr.Checkbox(
            info.default, label=_label(name), info=_help(name), elem_id=f"train-{name}", interactive=True,
            min_width=130,
        )
    if get_origin(kind) is Literal:
        return choice(name, min_width=130)
    if kind in (int, float):
        return number(name)
    return text(name, max_lines=1, placeholder="automatic")      # a number field cannot be shown empty


def init_choice() -> gr.Dropdown:
    """The initialisations by name, each with a word on what it does."""
    return choice("init", [(INIT_NAMES.get(name, name), name) for name in INITS], filterable=False, min_width=150)


def method_choice() -> gr.Dropdown:
    """The methods by name."""
    return choice(
        "method", [(METHOD_NAMES[name], name) for name in METHODS], filterable=False, min_width=130,
        info="What is trained.",
    )


def applies(field: str, *, method: str, init: str) -> bool:
    """Whether a setting means anything with this method and initialisation; one that doesn't is not shown."""
    has_start = method in ("prompt", "prefix")
    limited = {
        "virtual_tokens": method in ("prompt", "prefix", "p_tuning"), "init": has_start,
        "init_run": has_start and init == "from_run", "init_range": has_start and init == "random_uniform",
        "lora_rank": method == "lora", "peft_positions": method == "prompt",
    }
    return limited.get(field, True)


def read(fields: Sequence[str], values: Sequence[Any]) -> TrainConfig:
    """Checked settings from what the form holds; what is empty or doesn't apply means its default.

    Raises UserError naming every mistake at once.
    """
    given = dict(zip(fields, values, strict=True))
    method, init = str(given.get("method", "prompt")), str(given.get("init", "text"))
    given = {name: value for name, value in given.items() if applies(name, method=method, init=init)}
    optional = {name for name, info in TrainConfig.model_fields.items() if info.default is None}
    blank = {name for name in given if given[name] is None or given[name] == ""}
    return parse_config({name: value for name, value in given.items() if name not in blank & optional})


def fill(fields: Sequence[str], config: TrainConfig) -> list[Any]:
    """What the form shows for these settings, in the order of `fields`."""
    values = config.model_dump()
    return [shown(field, values[field]) for field in fields]


def shown(field: str, value: Any) -> Any:
    """What a component holds for a setting; nothing given is an empty field, in a list no choice."""
    return "" if value is None and not field.endswith(("_column", "_run")) else value


def keep_upload(path: str, *, root: Path) -> Path:
    """Where an uploaded file is kept, so that runs made from it can be repeated; same bytes, same place."""
    import hashlib
    import shutil

    source = Path(path)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    target = root / "uploads" / digest / source.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, part)
        part.replace(target)
    return target


def uploads(root: Path) -> list[tuple[str, str]]:
    """(name shown, path) of every kept upload, newest first; the time tells files of one name apart."""
    files = [f for f in (root / "uploads").glob("*/*") if f.is_file() and not f.name.startswith(".")]
    files.sort(key=lambda file: -file.stat().st_mtime)
    names = [file.name for file in files]
    return [
        (f"{file.name} (uploaded{_when(file) if names.count(file.name) > 1 else ''})", str(file)) for file in files
    ]


def _when(file: Path) -> str:
    return time.strftime(" %d %b %H:%M:%S", time.localtime(file.stat().st_mtime))


def _label(field: str) -> str:
    title = TrainConfig.model_fields[field].title or field
    return title[0].upper() + title[1:]


def _help(field: str) -> str | None:
    """The setting's description and its limits in words."""
    info, found = TrainConfig.model_fields[field], limits(field)
    low = f"over {found['gt']:g}" if "gt" in found else f"{found['ge']:g}" if "ge" in found else ""
    high = f"{found['le']:,.0f}" if found.get("le", 0) >= 1 else f"{found['le']:g}" if "le" in found else ""
    span = f"{low} to {high}" if low and high else ""
    return " ".join(part for part in (info.description or "", f"({span})" if span else "") if part) or None
