"""The Train form: what stands in view, what is folded away, what is shown only where it matters; and its data."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from softprompt_core import operations
from softprompt_core.config import BUNDLED_MODEL, METHOD_LR, TrainConfig
from softprompt_core.ui import form
from softprompt_core.ui.context import Context
from softprompt_core.ui.messages import as_html, guarded, notice, sentence
from softprompt_core.ui.preview import preflight_html, preview_html

TYPING_SECONDS = 0.4
FOLDED = {
    "Steps": ("batch_size", "accumulation", "epochs", "seed"),
    "Optimiser": ("optimizer", "schedule", "warmup", "weight_decay", "clip"),
    "Evaluation": ("eval_every", "select_by", "patience", "checkpoint_every", "shots"),
    "Data": ("max_tokens", "split_seed"),
    "Machine": ("device", "dtype", "gradient_checkpointing", "peft_positions"),
}
"""What the fold holds, under these headings; a setting named nowhere goes to the last one."""
IN_VIEW = (
    "data", "model", "method", "init", "init_run", "init_range", "init_text", "virtual_tokens", "lora_rank", "steps",
    "lr", "text_column", "label_column", "template",
)
OWN = ("data", "model", "text_column", "label_column", "template", "init_text", "name", "seed", "split_seed", "device",
       "dtype")
"""What a preset leaves as it is, unless it names it."""
LIMITED = ("virtual_tokens", "init", "init_run", "init_range", "lora_rank", "peft_positions")
"""Settings that not every method or initialisation has."""
CHECKING = "Reading the data and the model, then trying a step or two…"
PREVIEWED = ("data", "model", "method", "text_column", "label_column", "template", "virtual_tokens", "max_tokens")
READING = "Reading the data…"

Updates = dict[Any, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class TrainForm:
    """The parts of the form; `fields` holds the component of each setting."""

    fields: dict[str, Any]
    upload: gr.UploadButton
    preset: gr.Dropdown
    preset_note: gr.HTML
    go: gr.Button
    check: gr.Button
    report: gr.HTML


def main_form(context: Context) -> TrainForm:
    """Everything but the columns and the template, built inside the current layout."""
    fields: dict[str, Any] = {}
    with gr.Row(elem_id="train-source"):
        fields["data"] = form.choice(
            "data", data_choices(context), allow_custom_value=True, scale=3, min_width=150,
            info="Bundled, a CSV, TSV or JSONL file, a folder, or a hub id.",
        )
        upload = gr.UploadButton("Upload…", elem_id="train-upload", scale=0, min_width=96, size="md")
    with gr.Row():
        bundled = (f"{BUNDLED_MODEL} (small, offline)", BUNDLED_MODEL)
        fields["model"] = form.choice(
            "model", [bundled], allow_custom_value=True, min_width=150, info="Bundled, a folder, or a hub id.",
        )
        fields["method"] = form.method_choice()
    with gr.Row():
        preset = gr.Dropdown(
            preset_choices(), value="", label="Preset", elem_id="train-preset", filterable=False, interactive=True,
            info="Fills in a known recipe.", min_width=150,
        )
        fields["init"] = form.init_choice()
    preset_note = gr.HTML("", elem_id="train-preset-note")
    with gr.Row(elem_id="train-start"):
        fields["init_run"] = form.choice(
            "init_run", [], allow_custom_value=True, visible="hidden", info="Its prompt is where this run starts.",
        )
        fields["init_range"] = form.number("init_range", visible="hidden")
    fields["init_text"] = form.text(
        "init_text", lines=2, info="Words to start from, and the hand-written prompt to compare with.",
        placeholder="Left empty: “Classify the text as … or …:” with the data’s labels",
    )
    with gr.Row(elem_id="train-numbers"):
        fields["virtual_tokens"] = form.number("virtual_tokens", info=None)
        fields["lora_rank"] = form.number("lora_rank", info=None, visible="hidden")
        fields["steps"] = form.number("steps", info=None)
        fields["lr"] = form.number("lr", info=None, step=form.LR_STEP)
    with gr.Row(elem_id="train-go-row"):
        go = gr.Button("Train", variant="primary", size="lg", elem_id="train-go", scale=3, min_width=140)
        check = gr.Button("Check", size="lg", elem_id="train-check", scale=1, min_width=110)
    report = gr.HTML("", elem_id="train-report")
    with gr.Accordion("More settings", open=False, elem_id="train-more"):
        fields |= _folded(context)
    return TrainForm(fields, upload, preset, preset_note, go, check, report)


def _folded(context: Context) -> dict[str, Any]:
    known = {name for names in FOLDED.values() for name in names}
    others = [name for name in TrainConfig.model_fields if name not in known and name not in IN_VIEW]
    fields: dict[str, Any] = {}
    for heading, names in {**FOLDED, "Other": tuple(others)}.items():
        gr.HTML(f'<h3 class="sp-group">{heading}</h3>')
        for start in range(0, len(names), 2):
            with gr.Row():
                for name in names[start:start + 2]:
                    fields[name] = form.field(name)
    fields["device"].value = context.device
    return fields


def column_form(fields: dict[str, Any]) -> None:
    """Columns and template, built inside the current layout and added to `fields`."""
    with gr.Row():
        for name in ("text_column", "label_column"):
            fields[name] = form.choice(name, [], allow_custom_value=True, min_width=120)
    fields["template"] = form.text("template", lines=3)


def data_choices(context: Context) -> list[tuple[str, str]]:
    """(name shown, value) of the data at hand."""
    from softprompt_core.sources import list_bundled

    return [(name, name) for name in list_bundled()] + form.uploads(context.store.root)


def start_choices(context: Context) -> list[tuple[str, str]]:
    """(name shown, run id) of every run whose prompt another may start from."""
    return [
        (f"{info.name} · {info.run_id[-4:]}", info.run_id) for info in context.store.runs()
        if info.config.get("method", "prompt") in ("prompt", "p_tuning") and context.store.has_prompt(info.run_id)
    ]


def filled(context: Context, parts: TrainForm, config: TrainConfig) -> Updates:
    """The updates that show these settings in the form."""
    updates: Updates = dict(zip(parts.fields.values(), form.fill(list(parts.fields), config), strict=True))
    updates[parts.fields["steps"]] = steps_field(config.epochs, value=config.steps)
    if config.init == "from_run":
        updates[parts.fields["init_run"]] = gr.update(value=config.init_run, choices=start_choices(context))
    return updates


def steps_field(epochs: Any, **look: Any) -> Any:
    """The update of the steps' field: where epochs are given, they decide, and the field says so."""
    if str(epochs or "").strip():
        return gr.update(label="Steps: by epochs", interactive=False, **look)
    return gr.update(label="Steps", interactive=True, **look)


# --------------------------------------------------------------------- wiring


def wire(context: Context, parts: TrainForm, preview: gr.HTML) -> dict[str, Any]:
    """Wires the form; gives the event that shows what the model will see, to follow whatever fills the form."""
    look = _wire_data(context, parts, preview)
    _wire_choices(context, parts)
    _wire_check(context, parts)
    _wire_presets(context, parts, look)
    return look


def _wire_data(context: Context, parts: TrainForm, preview: gr.HTML) -> dict[str, Any]:
    root, fields = context.store.root, parts.fields
    inputs = [fields[name] for name in PREVIEWED]
    columns = [fields["text_column"], fields["label_column"]]

    def show(*values: Any) -> tuple[Any, Any, Any]:
        time.sleep(TYPING_SECONDS)  # with always_last, fast typing costs two looks, not twenty
        try:
            return _preview(form.read(PREVIEWED, values))
        except Exception as error:
            return notice(sentence(error, root=root, doing="reading the data")), gr.skip(), gr.skip()

    def forget() -> tuple[Any, Any, Any]:
        """What was shown of the data before: none of it holds for other data."""
        none = gr.Dropdown(choices=[], value=None)
        return notice(READING, kind="hint"), none, none

    @guarded(root, "reading the upload")
    def take(path: str) -> Any:
        from softprompt_core.sources import read_rows

        read_rows(Path(path))
        kept = form.keep_upload(path, root=root)
        return gr.Dropdown(choices=data_choices(context), value=str(kept)), *forget()

    look: dict[str, Any] = {"fn": show, "inputs": inputs, "outputs": [preview, *columns], **QUIET}
    parts.upload.upload(take, parts.upload, [fields["data"], preview, *columns], **QUIET).then(**look)
    # Only a choice by hand clears the columns: "Use these settings" fills in data and columns at once.
    fields["data"].input(forget, None, [preview, *columns], **QUIET).then(**look, trigger_mode="always_last")
    for name in PREVIEWED[1:]:
        event = fields[name].input if name.endswith("_column") else fields[name].change
        event(show, inputs, [preview, *columns], trigger_mode="always_last", **QUIET)
    demo = gr.context.Context.root_block
    assert demo is not None
    demo.load(lambda: gr.Dropdown(choices=data_choices(context)), None, fields["data"], **QUIET)
    return look


def _preview(config: TrainConfig) -> tuple[str, Any, Any]:
    """(markup, update of the text column, update of the label column)."""
    from softprompt_core.models import load_tokenizer, read_context
    from softprompt_core.tokenising import preview

    found = preview(config, load_tokenizer(config.model), context=read_context(config.model))
    names = list(found.columns)
    has_virtual = form.applies("virtual_tokens", method=config.method, init=config.init)
    return (
        preview_html(found, has_virtual=has_virtual),
        gr.Dropdown(choices=names, value=found.text_column),
        gr.Dropdown(choices=names, value=found.label_column),
    )


def _wire_choices(context: Context, parts: TrainForm) -> None:
    """What choosing a method, an initialisation or a preset does to the other fields."""
    fields = parts.fields

    def limit(method: str, init: str) -> list[Any]:
        updates = []
        for name in LIMITED:
            if not form.applies(name, method=method, init=init):
                updates.append(gr.update(visible="hidden"))
            elif name == "init_run":
                updates.append(gr.update(visible=True, choices=start_choices(context)))
            else:
                updates.append(gr.update(visible=True))
        return updates

    gr.on(
        [fields["method"].change, fields["init"].change], limit, [fields["method"], fields["init"]],
        [fields[name] for name in LIMITED], queue=False, **QUIET,
    )
    fields["epochs"].input(steps_field, fields["epochs"], fields["steps"], queue=False, **QUIET)
    # A rate that suits one method is far off for another; a filled form brings its own.
    fields["method"].input(
        lambda method: METHOD_LR.get(method, gr.skip()), fields["method"], fields["lr"], queue=False, **QUIET
    )


def _wire_check(context: Context, parts: TrainForm) -> None:
    """The check before training; what it said goes as soon as a setting changes, for it holds no longer."""
    names, inputs = list(parts.fields), list(parts.fields.values())
    root = context.store.root

    def wait() -> Any:
        return notice(CHECKING, kind="hint"), gr.Button("Checking…", interactive=False)

    def look(*values: Any) -> Any:
        try:
            config = form.read(names, values)
            operations.check(config, context.store)
            report = preflight_html(operations.preflight(config, store=context.store, may_load=True))
        except Exception as error:      # in place: it may be long, and is to be read while the form is mended
            report = notice(sentence(error, root=root, doing="checking the settings"))
        return report, gr.Button("Check", interactive=True)

    said = [parts.report, parts.check]
    parts.check.click(wait, None, said, queue=False, **QUIET).then(look, inputs, said, **QUIET)
    gr.on([field.change for field in inputs], None, None, parts.report, js="() => ''", api_visibility="private")


# -------------------------------------------------------------------- presets


def preset_choices() -> list[tuple[str, str]]:
    """(name shown, name) of every preset, none of them first."""
    from softprompt_core.presets import list_presets

    return [("none", ""), *((preset.title, preset.name) for preset in list_presets())]


def preset_html(about: str, source: str) -> str:
    """A recipe in a line, the rest and its source on asking."""
    head, _, rest = re.sub(r"(?<=[.:]) ", "\n", about, count=1).partition("\n")
    more = f"<p>{as_html(rest)}</p>" if rest else ""
    return (
        f'<details class="sp-recipe"><summary>{as_html(head.rstrip(".:"))}</summary>{more}'
        f"<p>Source: {as_html(source)}</p></details>"
    )


def _wire_presets(context: Context, parts: TrainForm, look: dict[str, Any]) -> None:
    fields = parts.fields

    @guarded(context.store.root, "reading the preset")
    def fill(name: str) -> Updates:
        """All of a recipe, so that nothing of an earlier one is left; what is the user's own stays as it is."""
        from softprompt_core.presets import load_preset

        if not name:
            return {parts.preset_note: ""}
        preset = load_preset(name)
        values = preset.config().model_dump()
        recipe = [name for name in fields if name not in OWN or name in preset.settings]
        updates = {fields[name]: form.shown(name, values[name]) for name in recipe}
        updates[fields["steps"]] = steps_field(values["epochs"], value=values["steps"])
        return updates | {parts.preset_note: preset_html(preset.about, preset.source)}

    parts.preset.input(fill, parts.preset, [*fields.values(), parts.preset_note], **QUIET).then(**look)
