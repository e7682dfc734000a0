"""The decisions a user makes, with their limits; forms, the command line and files all read them here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from softprompt_core.errors import UserError

Init = Literal[
    "text", "sampled_vocab", "random", "random_uniform", "peft_random", "class_labels", "first_rows", "from_run"
]
INITS: tuple[Init, ...] = get_args(Init)
Method = Literal["prompt", "prefix", "p_tuning", "lora", "full"]
METHODS: tuple[Method, ...] = get_args(Method)
PROMPT_METHODS: tuple[Method, ...] = ("prompt", "p_tuning")
"""Those that learn virtual tokens, which can be read; the others change the model in other places."""
METHOD_NAMES: dict[Method, str] = {
    "prompt": "prompt tuning", "prefix": "prefix tuning", "p_tuning": "p-tuning", "lora": "LoRA",
    "full": "full fine-tuning",
}
METHOD_LR: dict[Method, float] = {"prompt": 0.03, "prefix": 0.05, "p_tuning": 0.003, "lora": 0.002, "full": 0.0003}
"""Peak learning rates where none is given: sound starts for AdamW and a few hundred steps."""
Optimizer = Literal["adamw", "adafactor"]
Schedule = Literal["linear", "cosine", "constant"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]

BUNDLED_MODEL = "bundled"
BUNDLED_DATA = "complaints"
DEFAULT_TEMPLATE = "Text: {text}\nLabel:"

PASS_SETTINGS = (
    "model", "device", "dtype", "data", "text_column", "label_column", "template", "max_tokens",
    "split_seed", "virtual_tokens", "method", "peft_positions", "gradient_checkpointing",
)
"""Settings that runs must have in common to train in one model pass."""

Name = Annotated[str, Field(max_length=80)]


class TrainConfig(BaseModel):
    """Everything that decides a run; saved beside it and enough to repeat it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name | None = Field(None, title="run name", description="What the run is called in lists.")
    model: str = Field(
        BUNDLED_MODEL,
        min_length=1,
        title="model",
        description="'bundled', a folder with a Hugging Face model, or a hub id.",
    )
    data: str = Field(
        BUNDLED_DATA,
        min_length=1,
        title="data",
        description="A bundled name, a CSV, TSV or JSONL file, a folder with train/test files, or a hub id.",
    )
    text_column: str | None = Field(None, title="text column", description="Guessed when left out.")
    label_column: str | None = Field(None, title="label column", description="Guessed when left out.")
    template: str = Field(
        DEFAULT_TEMPLATE,
        min_length=1,
        max_length=4_000,
        title="template",
        description="{text} is the text column; any column may be named. The label follows it.",
    )
    method: Method = Field(
        "prompt",
        title="method",
        description="How the model is adapted: a soft prompt, or to compare with: prefix, p_tuning, lora, full.",
    )
    init: Init = Field("text", title="initialisation", description="Where the virtual tokens start.")
    init_text: str | None = Field(
        None,
        max_length=4_000,
        title="initial text",
        description="Words to start from (init text), and the hand-written prompt to compare with.",
    )
    init_run: str | None = Field(
        None, max_length=100, title="initial run", description="The run whose prompt init from_run starts at."
    )
    init_range: float = Field(
        0.5, gt=0, le=100, title="uniform range", description="random_uniform draws from ± this value."
    )
    virtual_tokens: int = Field(
        20, ge=1, le=1_000, title="virtual tokens", description="P, the length of the soft prompt."
    )
    steps: int = Field(300, ge=1, le=1_000_000, title="steps", description="Optimiser steps.")
    epochs: float | None = Field(
        None, gt=0, le=10_000, title="epochs",
        description="Passes over the training rows; where given, they decide the steps.",
    )
    batch_size: int = Field(8, ge=1, le=4_096, title="batch size", description="Rows a step.")
    accumulation: int = Field(
        1, ge=1, le=1_024, title="accumulation", description="Batches that make one optimiser step together."
    )
    optimizer: Optimizer = Field("adamw", title="optimiser", description="adamw, or adafactor as Lester et al.")
    lr: float = Field(0.03, gt=0, le=100, title="learning rate", description="Its peak; left out, the method's usual.")
    schedule: Schedule = Field("linear", title="schedule", description="Of the learning rate after warm-up.")
    warmup: float = Field(0.05, ge=0, le=1, title="warm-up", description="Share of the steps.")
    weight_decay: float = Field(
        0.0, ge=0, le=10, title="weight decay", description="0 leaves unused rows where they are."
    )
    clip: float = Field(1.0, gt=0, le=1e6, title="gradient clip", description="Largest norm, per prompt.")
    max_tokens: int = Field(
        256, ge=8, le=131_072, title="longest row", description="Tokens; longer texts lose their left end."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="seed", description="Of initialisation and order.")
    split_seed: int = Field(
        0, ge=0, le=2**31 - 1, title="split seed", description="Of the split, where the data has none."
    )
    eval_every: int | None = Field(
        None, ge=1, le=1_000_000, title="evaluate every", description="Steps; left out, ten times a run."
    )
    select_by: Literal["loss", "accuracy"] = Field(
        "loss", title="select by", description="The validation figure that decides which prompt is kept."
    )
    patience: int | None = Field(
        None, ge=1, le=10_000, title="patience",
        description="Evaluations without a better one before the run ends early; left out, it never does.",
    )
    checkpoint_every: int | None = Field(
        None, ge=1, le=1_000_000, title="checkpoint every", description="Steps; left out, at every evaluation."
    )
    shots: int = Field(
        0, ge=0, le=64, title="few-shot examples", description="Of an untrained few-shot baseline; 0 leaves it out."
    )
    lora_rank: int = Field(8, ge=1, le=1_024, title="LoRA rank", description="Only for method lora.")
    peft_positions: bool = Field(
        False, title="PEFT positions", description="Pads on the left and counts positions as PEFT does, to match it."
    )
    gradient_checkpointing: bool = Field(
        False, title="gradient checkpointing", description="Computes activations twice to keep fewer in memory."
    )
    device: str = Field("auto", title="device", description="auto, cpu, cuda, cuda:1 or mps.")
    dtype: Dtype = Field("auto", title="dtype", description="Of the frozen weights.")

    @field_validator("name")
    @classmethod
    def _name_is_no_path(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if any(c in value for c in "/\\") or any(ord(c) < 32 for c in value) or not value.strip(" ."):
            raise ValueError("it must be a plain name without '/', '\\' or control characters, and not empty")
        return value.strip()

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str) -> str:
        kind, _, index = value.partition(":")
        is_one = value in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and index.isascii() and index.isdigit())
        if not is_one:
            raise ValueError("allowed are auto, cpu, cuda, cuda:N and mps")
        return value

    @model_validator(mode="before")
    @classmethod
    def _rate_fits_method(cls, values: Any) -> Any:
        method = values.get("method") if isinstance(values, dict) else None
        if method in METHOD_LR and "lr" not in values:
            return {**values, "lr": METHOD_LR[method]}
        return values

    @model_validator(mode="after")
    def _start_is_named(self) -> Self:
        if (self.init == "from_run") != (self.init_run is not None):
            raise ValueError("initial run: init from_run needs the id of a run, and no other init takes one")
        if self.init == "from_run" and self.method not in ("prompt", "prefix"):
            raise ValueError("initial run: only the methods prompt and prefix can begin at the prompt of a run")
        return self

    @model_validator(mode="after")
    def _initial_text_has_words(self) -> Self:
        if self.init_text is not None and not self.init_text.strip() and self.init == "text":
            raise ValueError("initial text: it is blank; write a few words or leave it out for the default")
        return self

    @property
    def evaluation_interval(self) -> int:
        """Steps between two looks at the validation split."""
        return self.eval_every or max(1, math.ceil(self.steps / 10))

    @property
    def checkpoint_interval(self) -> int:
        """Steps between two checkpoints."""
        return self.checkpoint_every or self.evaluation_interval

    def for_rows(self, rows: int) -> TrainConfig:
        """The same settings with the steps that `epochs` means on so many training rows.

        The last batch of an epoch is as short as it comes, so that an epoch is every row once.
        """
        if self.epochs is None:
            return self
        steps = self.epochs * math.ceil(rows / (self.batch_size * self.accumulation))
        return self.with_changes(steps=max(1, math.ceil(round(steps, 6))))      # 2.2 × 25 is 55.000000000000007

    def pass_settings(self) -> tuple[Any, ...]:
        """What runs must have in common to go through the model together."""
        return tuple(getattr(self, name) for name in PASS_SETTINGS)

    def with_changes(self, **changes: Any) -> TrainConfig:
        """The same settings with some replaced, checked again; steps given anew win over epochs."""
        return parse_config(layered(self.model_dump(), changes))


class CompareConfig(BaseModel):
    """A comparison: every initialisation, or every method, with every seed; otherwise the same settings.

    Other methods than prompt tuning know no initialisations: each is one arm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: TrainConfig = TrainConfig()
    inits: tuple[Init, ...] = Field(("random", "text", "sampled_vocab"), title="initialisations")
    methods: tuple[Method, ...] = Field(("prompt",), title="methods")
    seeds: int = Field(1, ge=1, le=50, title="seeds", description="Runs of each arm.")

    @field_validator("inits")
    @classmethod
    def _inits_differ(cls, value: tuple[Init, ...]) -> tuple[Init, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"name one or more of {', '.join(INITS)}, each once")
        return value

    @field_validator("methods")
    @classmethod
    def _methods_differ(cls, value: tuple[Method, ...]) -> tuple[Method, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"name one or more of {', '.join(METHODS)}, each once")
        return value

    def arms(self) -> list[TrainConfig]:
        """One settings object a run, ordered by method, then initialisation, then seed."""
        first = self.base.seed
        return [
            self.base.with_changes(**changes, seed=seed, name=None)
            for method in self.methods
            for changes in self._changes(method)
            for seed in range(first, first + self.seeds)
        ]

    def _changes(self, method: Method) -> list[dict[str, Any]]:
        changes: dict[str, Any] = {"method": method}
        if method != self.base.method:
            changes["lr"] = METHOD_LR[method]
        if method != "prompt":      # of these only prefix tuning begins at a prompt
            begins = {} if method == "prefix" else {"init": "text", "init_run": None}
            return [{**changes, **begins}]
        run = self.base.init_run
        return [{**changes, "init": init, "init_run": run if init == "from_run" else None} for init in self.inits]


def layered(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings from several places, a later one winning; there steps win over the epochs of an earlier one."""
    values: dict[str, Any] = {}
    for layer in layers:
        if "steps" in layer and "epochs" not in layer:
            values.pop("epochs", None)
        values |= layer
    return values


def parse_config(values: dict[str, Any]) -> TrainConfig:
    """Checked settings from plain values.

    Raises UserError naming every mistake at once.
    """
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise UserError(_sentences(error, TrainConfig)) from None


def parse_compare(
    base: TrainConfig, *, inits: Sequence[str], seeds: int, methods: Sequence[str] = ("prompt",)
) -> CompareConfig:
    """A checked comparison. Raises UserError naming every mistake at once."""
    try:
        return CompareConfig(base=base, inits=tuple(inits), seeds=seeds, methods=tuple(methods))
    except ValidationError as error:
        raise UserError(_sentences(error, CompareConfig)) from None


def config_from_json(text: str, *, origin: str) -> dict[str, Any]:
    """The settings in a JSON text as a dict; `origin` names the file in messages.

    Raises UserError when it is no JSON object or holds an unknown key.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not valid JSON ({error}). Mend it or write settings as flags.") from None
    if not isinstance(values, dict):
        raise UserError(f'{origin} holds a {type(values).__name__}, not an object like {{"steps": 300}}.')
    unknown = sorted(set(values) - set(TrainConfig.model_fields))
    if unknown:
        raise UserError(
            f"{origin} has unknown settings: {', '.join(unknown)}. "
            f"Allowed are {', '.join(TrainConfig.model_fields)}."
        )
    return values


def limits(field: str) -> dict[str, float]:
    """The numeric limits of a setting, keyed gt, ge, lt, le; for forms."""
    return _limits(TrainConfig.model_fields[field])


def _limits(info: FieldInfo) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in info.metadata:
        for kind, key in (
            (annotated_types.Gt, "gt"), (annotated_types.Ge, "ge"),
            (annotated_types.Lt, "lt"), (annotated_types.Le, "le"),
        ):
            if isinstance(item, kind):
                found[key] = getattr(item, key)
    return found


def _sentences(error: ValidationError, model: type[BaseModel]) -> str:
    return " ".join(dict.fromkeys(_sentence(item, model) for item in error.errors()))


def _sentence(item: Any, model: type[BaseModel]) -> str:
    message = item["msg"].removeprefix("Value error, ")
    if not item["loc"]:
        return message[0].upper() + message[1:] + "."
    key = str(item["loc"][0])
    info = model.model_fields.get(key)
    if info is None:
        return f"Unknown setting {key!r}; allowed are {', '.join(model.model_fields)}."
    title, given = info.title or key, _short(item["input"])
    kind = item["type"]
    if kind == "value_error":
        return f"{title}: {given} was given; {message}."
    if kind == "literal_error":
        allowed = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{title}: {given} was given; allowed are {allowed}."
    found = _limits(info)
    if found:
        low = f"above {_figure(found['gt'])}" if "gt" in found else f"of at least {_figure(found.get('ge', 0))}"
        high = f" and at most {_figure(found['le'])}" if "le" in found else ""
        whole = "whole number" if "int" in str(info.annotation) else "number"
        default = "" if info.default is None else f"; {_figure(info.default)} is a sound start"
        return f"{title}: {given} was given; allowed is a {whole} {low}{high}{default}."
    return f"{title}: {given} was given; {message[0].lower() + message[1:]}."


def _figure(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
