"""The run on screen: the parts of the page that show it, and what they show as it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from softprompt_core import operations
from softprompt_core.config import BUNDLED_MODEL
from softprompt_core.records import ENDED, Neighbour, RunInfo
from softprompt_core.ui import results
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import loss_chart
from softprompt_core.ui.messages import notice

REFRESH_SECONDS = 2.0
FRESH_SECONDS = 60.0
NO_WORDS = "The nearest word of each virtual token appears here while a run trains."

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Live:
    """The parts of the page that show one run."""

    title: gr.HTML
    chart: gr.HTML
    result: gr.HTML
    words: gr.HTML
    log: gr.HTML
    stop: gr.Button
    inspect: gr.Button
    reuse: gr.Button
    timer: gr.Timer
    seen: gr.State

    def parts(self) -> list[Any]:
        """Every part, for use as outputs."""
        return list(vars(self).values())


def live_area(context: Context) -> Live:
    """The empty parts, built inside the current layout."""
    title = gr.HTML("", elem_id="train-title")
    chart = loss_chart(context.store, tiles=True, elem_id="train-chart")
    result = gr.HTML("", elem_id="train-result")
    with gr.Row():
        off: dict[str, Any] = {"size": "md", "interactive": False, "min_width": 96}
        stop = gr.Button("Stop", variant="stop", elem_id="train-stop", **off)
        inspect = gr.Button("Inspect this run", elem_id="train-inspect", **off)
        reuse = gr.Button("Use these settings", elem_id="train-reuse", **off)
    words = gr.HTML(notice(NO_WORDS, kind="hint"), elem_id="train-words")
    with gr.Accordion("Run log", open=False, elem_id="train-log"):
        log = gr.HTML(results.log_html([]))
    return Live(title, chart, result, words, log, stop, inspect, reuse,
                gr.Timer(REFRESH_SECONDS, active=False), gr.State(""))


def newest(runs: Sequence[RunInfo]) -> RunInfo | None:
    """The newest run at work, else the newest waiting, else the newest of all."""
    for statuses in (("running", "paused"), ("queued",)):
        at_work = [info for info in runs if info.status in statuses]
        if at_work:
            return at_work[0]
    return runs[0] if runs else None


def shown(context: Context, live: Live, run_id: str) -> Updates:
    """Everything that is quick to show of a run; the timer adds the words, which may need the model."""
    info = context.store.run(run_id)
    at_work = info.status not in ENDED
    return {
        live.title: results.title_html(info),
        live.chart: json.dumps([run_id]),
        live.result: results.result_html(info, folder=context.store.folder(run_id)),
        live.words: notice(NO_WORDS if at_work else "Reading the prompt…", kind="hint"),
        live.log: results.log_html(context.store.logs(run_id)),
        live.stop: gr.Button("Stop", interactive=at_work),
        live.inspect: gr.Button(interactive=True),
        live.reuse: gr.Button(interactive=True),
        live.timer: gr.Timer(active=True),
        live.seen: "",
    }


def cleared(live: Live) -> Updates:
    """What to show of no run."""
    return {
        live.title: "", live.chart: "[]", live.result: "", live.words: notice(NO_WORDS, kind="hint"),
        live.log: results.log_html([]), live.stop: gr.Button("Stop", interactive=False),
        live.inspect: gr.Button(interactive=False), live.reuse: gr.Button(interactive=False),
        live.timer: gr.Timer(active=False), live.seen: "",
    }


def refreshed(context: Context, live: Live, run_id: str, seen: str) -> Any:
    """What has changed since the timer last looked; nothing, when nothing has."""
    store = context.store
    info = store.run(run_id)
    step = store.prompt_at(run_id)[0] if store.has_prompt(run_id) else None
    logs = store.logs(run_id)
    now = json.dumps([run_id, info.status, info.name, step, len(logs)])
    ended = info.status in ENDED
    if now == seen:
        return {live.timer: gr.Timer(active=False)} if ended else gr.skip()
    updates: Updates = {
        live.seen: now,
        live.title: results.title_html(info),
        live.result: results.result_html(info, folder=store.folder(run_id)),
        live.log: results.log_html(logs),
    }
    if ended:
        updates[live.stop] = gr.Button("Stop", interactive=False)
    if step is not None:
        updates[live.words] = _words(context, info)
    elif ended:
        updates[live.words] = notice("This run has kept no prompt, so it has no words to show.", kind="hint")
    return updates


def _words(context: Context, info: RunInfo) -> str:
    """The words of a run's prompt; an old run's model is not loaded only for them."""
    from softprompt_core.inspection.neighbours import nearest_words
    from softprompt_core.inspection.vocabulary import vocabulary_of

    ended = info.status in ENDED
    model = str(info.config["model"])
    if ended and model != BUNDLED_MODEL and time.time() - info.updated > FRESH_SECONDS:
        return notice("Press “Inspect this run” to read its words; that loads its model.", kind="hint")
    step, prompt = context.store.prompt_at(info.run_id)
    start = operations.start_of(context.store, info.run_id)
    vocabulary = vocabulary_of(operations.base_of(context.store, info.run_id))

    def best(vectors: Any) -> list[Neighbour | None]:
        return [near[0] if near else None for near in nearest_words(vectors, vocabulary, top=1)]

    before = [None] * len(prompt) if start is None else best(start)
    return results.words_html(best(prompt), before, step=step, ended=ended)
