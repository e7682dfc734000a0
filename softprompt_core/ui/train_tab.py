"""The Train tab: a form that is complete as it opens, a preview of the data, and the run on screen, live."""

from __future__ import annotations

from typing import Any

import gradio as gr

from softprompt_core.errors import UserError
from softprompt_core.operations import check
from softprompt_core.records import ENDED
from softprompt_core.ui import form, run_view, train_form
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import LOOK_AGAIN
from softprompt_core.ui.messages import guarded, notice
from softprompt_core.ui.train_form import QUIET, READING, TrainForm

TO_RUN = "() => { if (innerWidth < 800) document.querySelector('#train-live')?.scrollIntoView() }"
TO_FORM = "() => { if (innerWidth < 800) document.querySelector('#train-form')?.scrollIntoView() }"

Updates = dict[Any, Any]


def build(
    context: Context, shown_run: gr.State, forked_run: gr.State, selected_run: gr.Component, tabs: gr.Tabs
) -> None:
    """Builds the tab inside the current layout.

    Setting `shown_run` (a run id) shows that run here, setting `forked_run` fills the form to train on from that run;
    Inspect is opened by way of `selected_run` and `tabs`.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=310, elem_id="train-form"):
            parts = train_form.main_form(context)
        with gr.Column(scale=8, min_width=310, elem_id="train-live"):
            live = run_view.live_area(context)
    gr.HTML('<h2 class="sp-section">What the model will see</h2>')
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=310):
            train_form.column_form(parts.fields)
        with gr.Column(scale=8, min_width=310):
            preview = gr.HTML(notice(READING, kind="hint"), elem_id="train-preview")
    look = train_form.wire(context, parts, preview)
    _wire_run(context, parts, live, look, shown_run)
    _wire_settings(context, parts, live, look, shown_run, forked_run)
    live.inspect.click(
        lambda run_id: (run_id, gr.Tabs(selected="inspect")), shown_run, [selected_run, tabs], **QUIET
    )


def _wire_run(
    context: Context, parts: TrainForm, live: run_view.Live, look: dict[str, Any], shown_run: gr.State
) -> None:
    store, root = context.store, context.store.root
    names, inputs = list(parts.fields), list(parts.fields.values())
    outputs = [shown_run, *live.parts()]

    @guarded(root, "starting the run")
    def train(*values: Any) -> Updates:
        config = form.read(names, values)
        check(config, store)
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
            return {inputs[0]: gr.skip()}
        return train_form.filled(context, parts, store.config(run_id))

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

    @guarded(root, "holding or resuming the run")
    def hold(run_id: str) -> Updates:
        return run_view.held(context, live, run_id)

    demo = gr.context.Context.root_block
    assert demo is not None
    parts.go.click(train, inputs, outputs, **QUIET).then(None, js=TO_RUN, api_visibility="private")
    demo.load(attach, shown_run, outputs, **QUIET).then(fill_form, shown_run, inputs, **QUIET).then(**look)
    shown_run.change(follow, shown_run, live.parts(), **QUIET)
    live.timer.tick(tick, [shown_run, live.seen], live.parts(), **QUIET)
    live.stop.click(stop, shown_run, live.stop, **QUIET)
    live.hold.click(hold, shown_run, live.parts(), **QUIET).then(None, js=LOOK_AGAIN, api_visibility="private")


def _wire_settings(
    context: Context, parts: TrainForm, live: run_view.Live, look: dict[str, Any], shown_run: gr.State,
    forked_run: gr.State,
) -> None:
    """The settings of the run on screen, or of a run that is to be trained on, back in the form."""
    store, root, inputs = context.store, context.store.root, list(parts.fields.values())

    @guarded(root, "reading the settings")
    def reuse(run_id: str) -> Updates:
        return train_form.filled(context, parts, store.config(run_id))

    @guarded(root, "reading the settings")
    def fork(run_id: str) -> Updates:
        if not run_id:
            return {inputs[0]: gr.skip()}
        return train_form.filled(context, parts, run_view.fork(store.config(run_id), run_id)) | {forked_run: ""}

    live.reuse.click(reuse, shown_run, inputs, **QUIET).then(**look)
    live.fork.click(lambda run_id: run_id, shown_run, forked_run, **QUIET)
    forked_run.change(fork, forked_run, [*inputs, forked_run], **QUIET).then(**look).then(
        None, js=TO_FORM, api_visibility="private"
    )
