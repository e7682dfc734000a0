"""The Train tab: a form that is complete as it opens, a preview of the data, and the run on screen, live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from softprompt_core.config import BUNDLED_MODEL, TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.operations import check
from softprompt_core.records import ENDED
from softprompt_core.ui import form, run_view
from softprompt_core.ui.context import Context
from softprompt_core.ui.messages import guarded, notice, sentence
from softprompt_core.ui.preview import preview_html

TYPING_SECONDS = 0.4
MAIN = ("data", "model", "init", "init_text", "virtual_tokens", "steps", "lr")
PREVIEWED = ("data", "model", "text_column", "label_column", "template", "virtual_tokens", "max_tokens")
READING = "Reading the data…"
TO_RUN = "() => { if (innerWidth < 800) document.querySelector('#train-live')?.scrollIntoView() }"

Updates = dict[Any, Any]


def build(context: Context, shown_run: gr.State, selected_run: gr.Component, tabs: gr.Tabs) -> None:
    """Builds the tab inside the current layout.

    Setting `shown_run` (a run id) shows that run here; Inspect is opened by way of `selected_run` and `tabs`.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=310, elem_id="train-form"):
            fields, upload, go = _main_form(context)
        with gr.Column(scale=8, min_width=310, elem_id="train-live"):
            live = run_view.live_area(context)
    gr.HTML('<h2 class="sp-section">What the model will see</h2>')
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=310):
            with gr.Row():
                for name in ("text_column", "label_column"):
                    fields[name] = form.choice(name, [], allow_custom_value=True, min_width=120)
            fields["template"] = form.text("template", lines=3)
        with gr.Column(scale=8, min_width=310):
            preview = gr.HTML(notice(READING, kind="hint"), elem_id="train-preview")
    look = _wire_form(context, fields, upload, preview)
    _wire_run(context, fields, go, live, look, shown_run, selected_run, tabs)


# ---------------------------------------------------------------------- form


def _main_form(context: Context) -> tuple[dict[str, Any], gr.UploadButton, gr.Button]:
    fields: dict[str, Any] = {}
    fields["data"] = form.choice("data", _data_choices(context), allow_custom_value=True)
    upload = gr.UploadButton("Upload CSV, TSV or JSONL", size="sm", elem_id="train-upload")
    bundled = (f"{BUNDLED_MODEL} (small, offline)", BUNDLED_MODEL)
    fields["model"] = form.choice("model", [bundled], allow_custom_value=True)
    fields["init"] = form.init_choice()
    fields["init_text"] = form.text(
        "init_text", lines=2, placeholder="Left empty: “Classify the text as … or …:” with the data’s labels"
    )
    with gr.Row(elem_id="train-numbers"):
        fields["virtual_tokens"] = form.number("virtual_tokens", info=None)
        fields["steps"] = form.number("steps", info=None)
        fields["lr"] = form.number("lr", info=None, step=form.LR_STEP)
    go = gr.Button("Train", variant="primary", size="lg", elem_id="train-go")
    elsewhere = (*MAIN, "text_column", "label_column", "template", "method")
    with gr.Accordion("More settings", open=False, elem_id="train-more"):
        rest = [name for name in TrainConfig.model_fields if name not in elsewhere]
        for start in range(0, len(rest), 2):
            with gr.Row():
                for name in rest[start:start + 2]:
                    fields[name] = form.field(name)
    return fields, upload, go


def _data_choices(context: Context) -> list[tuple[str, str]]:
    from softprompt_core.sources import list_bundled

    return [(name, name) for name in list_bundled()] + form.uploads(context.store.root)


def _wire_form(
    context: Context, fields: dict[str, Any], upload: gr.UploadButton, preview: gr.HTML
) -> dict[str, Any]:
    """Wires the form; gives the event that shows what the model will see, to follow whatever fills the form."""
    root = context.store.root
    inputs = [fields[name] for name in PREVIEWED]
    columns = [fields["text_column"], fields["label_column"]]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

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
        return gr.Dropdown(choices=_data_choices(context), value=str(kept)), *forget()

    look: dict[str, Any] = {"fn": show, "inputs": inputs, "outputs": [preview, *columns], **quiet}
    upload.upload(take, upload, [fields["data"], preview, *columns], **quiet).then(**look)
    # Only a choice by hand clears the columns: "Use these settings" fills in data and columns at once.
    fields["data"].input(forget, None, [preview, *columns], **quiet).then(**look, trigger_mode="always_last")
    for name in PREVIEWED[1:]:
        event = fields[name].input if name.endswith("_column") else fields[name].change
        event(show, inputs, [preview, *columns], trigger_mode="always_last", **quiet)
    demo = gr.context.Context.root_block
    assert demo is not None
    demo.load(lambda: gr.Dropdown(choices=_data_choices(context)), None, fields["data"], **quiet)
    return look


def _preview(config: TrainConfig) -> tuple[str, Any, Any]:
    """(markup, update of the text column, update of the label column)."""
    from softprompt_core.models import load_tokenizer, read_context
    from softprompt_core.tokenising import preview

    found = preview(config, load_tokenizer(config.model), context=read_context(config.model))
    names = list(found.columns)
    return (
        preview_html(found),
        gr.Dropdown(choices=names, value=found.text_column),
        gr.Dropdown(choices=names, value=found.label_column),
    )


# ----------------------------------------------------------------------- run


def _wire_run(
    context: Context, fields: dict[str, Any], go: gr.Button, live: run_view.Live, look: dict[str, Any],
    shown_run: gr.State, selected_run: gr.Component, tabs: gr.Tabs,
) -> None:
    store, root = context.store, context.store.root
    names, inputs = list(fields), list(fields.values())
    outputs = [shown_run, *live.parts()]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @guarded(root, "starting the run")
    def train(*values: Any) -> Updates:
        config = form.read(names, values)
        check(config)
        run_id = context.runner.submit([config])[0]
        return {shown_run: run_id} | run_view.shown(context, live, run_id)

    @guarded(root, "opening the page")
    def attach(current: str) -> Updates:
        info = run_view.newest(store.runs(limit=500))
        if info is None:
            return {shown_run: ""} | run_view.cleared(live)
        return {shown_run: info.run_id} | run_view.shown(context, live, info.run_id)

    def fill_form(run_id: str) -> Updates:
        if not run_id or store.run(run_id).status in ENDED:
            return {fields["data"]: gr.skip()}
        return _filled(fields, store.config(run_id))

    def follow(run_id: str) -> Updates:
        try:
            return run_view.shown(context, live, run_id) if run_id else run_view.cleared(live)
        except UserError:
            return run_view.cleared(live)

    @guarded(root, "refreshing the run")
    def tick(run_id: str, seen: str) -> Any:
        try:
            return run_view.refreshed(context, live, run_id, seen)
        except UserError:
            return run_view.cleared(live)      # deleted meanwhile, here or from the command line

    @guarded(root, "stopping the run")
    def stop(run_id: str) -> Any:
        if not context.runner.stop(run_id):
            raise UserError("This run has ended already; there is nothing to stop.")
        return gr.Button("Stopping…", interactive=False)

    @guarded(root, "reading the settings")
    def reuse(run_id: str) -> Updates:
        return _filled(fields, store.config(run_id))

    demo = gr.context.Context.root_block
    assert demo is not None
    go.click(train, inputs, outputs, **quiet).then(None, js=TO_RUN, api_visibility="private")
    demo.load(attach, shown_run, outputs, **quiet).then(fill_form, shown_run, inputs, **quiet).then(**look)
    shown_run.change(follow, shown_run, live.parts(), **quiet)
    live.timer.tick(tick, [shown_run, live.seen], live.parts(), **quiet)
    live.stop.click(stop, shown_run, live.stop, **quiet)
    live.reuse.click(reuse, shown_run, inputs, **quiet).then(**look)
    live.inspect.click(
        lambda run_id: (run_id, gr.Tabs(selected="inspect")), shown_run, [selected_run, tabs], **quiet
    )


def _filled(fields: dict[str, Any], config: TrainConfig) -> Updates:
    values = form.fill(list(fields), config)
    return dict(zip(fields.values(), values, strict=True))
