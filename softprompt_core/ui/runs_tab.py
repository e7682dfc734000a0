"""The Runs tab: every run ever made, and what can be done with the chosen one."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from softprompt_core import operations
from softprompt_core.config import METHOD_NAMES
from softprompt_core.errors import UserError
from softprompt_core.records import ENDED, RunInfo
from softprompt_core.ui import form, results
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import LOOK_AGAIN
from softprompt_core.ui.messages import guarded, notice, plain
from softprompt_core.ui.run_view import RESUMABLE, can_be_forked

HEADERS = [
    "status", "name", "accuracy", "data", "model", "method", "start", "tokens", "steps", "seed", "created", "run id",
]
WIDTHS: list[str | int] = [130, 230, 90, 130, 110, 130, 120, 75, 70, 60, 150, 340]
SIGNS = {
    "queued": "◷", "running": "●", "paused": "Ⅱ", "done": "✓", "stopped": "■", "interrupted": "⚠",
    "failed": "✕",
}
REFRESH_SECONDS = 3.0
NOTHING_YET = "No run yet. Open Train and press the Train button; every run is listed here for good."
CHOOSE = "Choose a run in the table to open, resume, rename, stop, delete or download it."
DOWNLOAD_ID = "runs-download-file"
FETCH = f"(path) => {{ if (path) setTimeout(() => document.querySelector('#{DOWNLOAD_ID}')?.click(), 300) }}"


def build(
    context: Context, shown_run: gr.State, forked_run: gr.State, selected_run: gr.Component, tabs: gr.Tabs
) -> None:
    """Builds the tab inside the current layout; `shown_run` and `selected_run` lead to Train and Inspect.

    Setting `forked_run` fills the form of Train.
    """
    store, root = context.store, context.store.root
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    chosen = gr.State("")
    seen = gr.State(None)
    empty = gr.HTML(notice(NOTHING_YET, kind="hint"), elem_id="runs-empty")
    table = gr.Dataframe(
        headers=HEADERS, datatype="str", type="array", interactive=False, wrap=False, column_widths=WIDTHS,
        show_label=False, elem_id="runs-table", max_height=420, visible=False, show_search="filter",
        pinned_columns=1,
    )
    about = gr.HTML("", elem_id="runs-about")
    with gr.Column(visible=False, elem_id="runs-actions") as actions:
        with gr.Row():
            look: dict[str, Any] = {"size": "md", "min_width": 100}
            inspect = gr.Button("Open in Inspect", variant="primary", elem_id="runs-inspect", **look)
            show = gr.Button("Show on Train", elem_id="runs-show", **look)
            download = gr.Button("Download for PEFT", elem_id="runs-download", **look)
            resume = gr.Button("Resume", elem_id="runs-resume", **look)
            fork = gr.Button("Train on from here", elem_id="runs-fork", **look)
            stop = gr.Button("Stop", variant="stop", elem_id="runs-stop", **look)
            delete = gr.Button("Delete…", elem_id="runs-delete", **look)
        with gr.Row(visible=False, elem_id="runs-confirm") as confirm:
            sure = gr.Button("Delete for good", variant="stop", elem_id="runs-sure", size="md")
            keep = gr.Button("Keep it", elem_id="runs-keep", size="md")
        with gr.Row(equal_height=False):
            name = gr.Textbox(label="Name", max_lines=1, scale=4, elem_id="runs-name")
            rename = gr.Button("Rename", scale=1, min_width=100, size="md", elem_id="runs-rename")
        command = gr.Textbox(
            label="Command that repeats this run", interactive=False, lines=2, buttons=["copy"],
            elem_id="runs-command",
        )
    file = gr.DownloadButton("Download", visible="hidden", elem_id=DOWNLOAD_ID)
    ready = gr.Textbox(visible="hidden", show_label=False)
    timer = gr.Timer(REFRESH_SECONDS)
    states = [stop, resume, fork, delete]
    details = [about, actions, confirm, name, command, *states]

    def refresh(old: Any, run_id: str) -> Any:
        infos = store.runs()
        now = [rows(infos), run_id]
        if now == old:
            return gr.skip()
        info = next((info for info in infos if info.run_id == run_id), None)
        return (
            now, gr.Dataframe(value=now[0], visible=bool(infos)), gr.HTML(visible=not infos),
            _about(info, has_runs=bool(infos)), gr.Column(visible=info is not None), *allowed(info),
        )

    def allowed(info: RunInfo | None) -> tuple[Any, ...]:
        """Updates of `states`: a button that means nothing for this run is not shown."""
        at_work = info is not None and info.status not in ENDED
        can_resume = info is not None and info.status in RESUMABLE
        can_fork = info is not None and can_be_forked(context, info)
        return (
            gr.Button(interactive=at_work, visible=at_work),
            gr.Button(interactive=can_resume, visible=can_resume),
            gr.Button(visible=can_fork), gr.Button(interactive=not at_work),
        )

    def choose(event: gr.SelectData) -> Any:
        found = str(event.row_value[-1]) if event.row_value else ""
        return found, *detail(found)

    def detail(run_id: str) -> Any:
        info = store.run(run_id)
        was_trained = "imported_from" not in store.facts(run_id)      # else no command repeats it
        return (
            _about(info, has_runs=True), gr.Column(visible=True), gr.Row(visible=False), info.name,
            gr.Textbox(operations.command_for(store.config(run_id)), visible=was_trained), *allowed(info),
        )

    @guarded(root, "renaming the run")
    def give_name(run_id: str, text: str) -> Any:
        store.rename(run_id, text)
        return detail(run_id)

    @guarded(root, "stopping the run")
    def stop_run(run_id: str) -> Any:
        if not context.runner.stop(run_id):
            raise UserError("This run has ended already; there is nothing to stop.")
        gr.Info("Stopping after the present step; the best prompt is kept.")
        return gr.Button(interactive=False)

    @guarded(root, "resuming the run")
    def resume_run(run_id: str) -> Any:
        operations.prepare_resume(store, run_id)
        context.runner.resume(run_id)
        gr.Info("It goes on from its last checkpoint. Show on Train opens its curve.")
        return gr.Button(interactive=False)

    @guarded(root, "deleting the run")
    def delete_run(run_id: str) -> Any:
        store.delete(run_id)
        return "", gr.Row(visible=False)

    @guarded(root, "making the download")
    def make_file(run_id: str) -> Any:
        path = str(zip_of(context, run_id))
        return gr.DownloadButton(value=path), path

    after: dict[str, Any] = {"fn": refresh, "inputs": [seen, chosen],
                             "outputs": [seen, table, empty, about, actions, *states], **quiet}
    timer.tick(**after)
    demo = gr.context.Context.root_block
    assert demo is not None
    demo.load(**after)
    table.select(guarded(root, "opening the run")(choose), None, [chosen, *details], **quiet)
    inspect.click(lambda run_id: (run_id, gr.Tabs(selected="inspect")), chosen, [selected_run, tabs], **quiet)
    show.click(lambda run_id: (run_id, gr.Tabs(selected="train")), chosen, [shown_run, tabs], **quiet)
    rename.click(give_name, [chosen, name], details, **quiet).then(**after)
    name.submit(give_name, [chosen, name], details, **quiet).then(**after)
    stop.click(stop_run, chosen, stop, **quiet)
    resume.click(resume_run, chosen, resume, **quiet).then(**after).then(
        None, js=LOOK_AGAIN, api_visibility="private"
    )
    fork.click(lambda run_id: (run_id, gr.Tabs(selected="train")), chosen, [forked_run, tabs], **quiet)
    delete.click(lambda: gr.Row(visible=True), None, confirm, **quiet)
    keep.click(lambda: gr.Row(visible=False), None, confirm, **quiet)
    sure.click(delete_run, chosen, [chosen, confirm], **quiet).then(**after)
    download.click(lambda: "", None, ready, **quiet).then(make_file, chosen, [file, ready], **quiet).then(
        None, ready, None, js=FETCH, api_visibility="private"
    )


def rows(infos: Sequence[RunInfo]) -> list[list[str]]:
    """The table of runs, in the order of HEADERS."""
    return [
        [
            f"{SIGNS.get(info.status, '')} {info.status}"
            + (f" {100 * info.step // max(1, info.steps)} %" if info.status == "running" else ""),
            plain(info.name), results.percent(info.result.get("eval_accuracy")),
            Path(str(info.config.get("data"))).name, Path(str(info.config.get("model"))).name,
            *_what(info.config), str(info.steps),
            str(info.config.get("seed")), time.strftime("%Y-%m-%d %H:%M", time.localtime(info.created)),
            info.run_id,
        ]
        for info in infos
    ]


def _what(config: dict[str, Any]) -> tuple[str, str, str]:
    """(method, start, virtual tokens), each empty where the method has none."""
    method, init = config.get("method", "prompt"), str(config.get("init"))
    has = {field: form.applies(field, method=method, init=init) for field in ("init", "virtual_tokens")}
    return (
        METHOD_NAMES.get(method, method), init if has["init"] else "",
        str(config.get("virtual_tokens")) if has["virtual_tokens"] else "",
    )


def zip_of(context: Context, run_id: str) -> Path:
    """A temporary zip with the run as a folder that PEFT loads, named like the run."""
    folder = Path(tempfile.mkdtemp(prefix="softprompt-")) / run_id
    try:
        operations.export_run(context.store, run_id, folder)
        return Path(shutil.make_archive(str(folder), "zip", root_dir=folder.parent, base_dir=run_id))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _about(info: RunInfo | None, *, has_runs: bool) -> str:
    if info is None:
        return notice(CHOOSE, kind="hint") if has_runs else ""
    return results.title_html(info) + results.result_html(info)
