"""The run on screen: the parts of the page that show it, and what they show as it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from softprompt_core import operations
from softprompt_core.config import BUNDLED_MODEL, METHOD_LR, TrainConfig
from softprompt_core.records import ENDED, Neighbour, RunInfo
from softprompt_core.ui import results
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import loss_chart
from softprompt_core.ui.messages import notice
from softprompt_core.ui.opened import prompt_stamp

REFRESH_SECONDS = 2.0
REST_SECONDS = 10.0
"""Between looks at a run that has ended, which may be resumed here or from the command line."""
FRESH_SECONDS = 60.0
PAUSE, RESUME = "Pause", "Resume"
RESUMABLE = ("stopped", "interrupted", "failed")
NO_WORDS = "The nearest word of each virtual token appears here while a run trains."

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Live:
    """The parts of the page that show one run."""

    title: gr.HTML
    chart: gr.HTML
    warnings: gr.HTML
    result: gr.HTML
    words: gr.HTML
    log: gr.HTML
    stop: gr.Button
    hold: gr.Button
    inspect: gr.Button
    reuse: gr.Button
    fork: gr.Button
    timer: gr.Timer
    seen: gr.State

    def parts(self) -> list[Any]:
        """Every part, for use as outputs."""
        return list(vars(self).values())


def live_area(context: Context) -> Live:
    """The empty parts, built inside the current layout."""
    title = gr.HTML("", elem_id="train-title")
    chart = loss_chart(context.store, tiles=True, elem_id="train-chart")
    warnings = gr.HTML("", elem_id="train-warnings")
    result = gr.HTML("", elem_id="train-result")
    with gr.Row(elem_id="train-actions"):
        off: dict[str, Any] = {"size": "md", "interactive": False, "min_width": 96}
        stop = gr.Button("Stop", variant="stop", elem_id="train-stop", **off)
        hold = gr.Button(PAUSE, elem_id="train-hold", visible=False, **off)
        inspect = gr.Button("Inspect this run", elem_id="train-inspect", **off)
        reuse = gr.Button("Use these settings", elem_id="train-reuse", **off)
        fork = gr.Button("Train on from here", elem_id="train-fork", visible=False, **off)
    words = gr.HTML(notice(NO_WORDS, kind="hint"), elem_id="train-words")
    with gr.Accordion("Run log", open=False, elem_id="train-log"):
        log = gr.HTML(results.log_html([]))
    timer, seen = gr.Timer(REFRESH_SECONDS, active=False), gr.State("")
    return Live(title, chart, warnings, result, words, log, stop, hold, inspect, reuse, fork, timer, seen)


def newest(runs: Sequence[RunInfo]) -> RunInfo | None:
    """The newest run at work, else the newest waiting, else the newest of all."""
    for statuses in (("running", "paused"), ("queued",)):
        at_work = [info for info in runs if info.status in statuses]
        if at_work:
            return at_work[0]
    return runs[0] if runs else None


def shown(context: Context, live: Live, run_id: str) -> Updates:
    """Everything that is quick to show of a run; the timer adds the words, which may need the model."""
    info, logs = context.store.run(run_id), context.store.logs(run_id)
    at_work = info.status not in ENDED
    words = results.NO_TOKENS.get(str(info.config.get("method")), NO_WORDS if at_work else "Reading the prompt…")
    return {
        live.title: results.title_html(info),
        live.chart: json.dumps([run_id]),
        live.warnings: results.warnings_html(info, logs),
        live.result: results.result_html(info, folder=context.store.folder(run_id)),
        live.words: notice(words, kind="hint"),
        live.log: results.log_html(logs),
        **_buttons(context, live, info),
        live.inspect: gr.Button(interactive=True),
        live.reuse: gr.Button(interactive=True),
        live.timer: gr.Timer(REFRESH_SECONDS, active=True),
        live.seen: "",
    }


def can_be_forked(context: Context, info: RunInfo) -> bool:
    """Whether another run may start at what this one has learned: a prompt, and it learns no more."""
    has_tokens = str(info.config.get("method", "prompt")) not in results.NO_TOKENS
    return info.status in ENDED and has_tokens and context.store.has_prompt(info.run_id)


def _buttons(context: Context, live: Live, info: RunInfo) -> Updates:
    """What can be done with a run in its present state; a button that means nothing then is not shown."""
    at_work, waits = info.status not in ENDED, info.status == "queued"
    can_hold = at_work or info.status in RESUMABLE
    can_fork = can_be_forked(context, info)
    return {
        live.stop: gr.Button("Stop", interactive=at_work, visible=at_work),
        live.hold: gr.Button(
            PAUSE if info.status in ("queued", "running") else RESUME, interactive=can_hold and not waits,
            visible=can_hold,
        ),
        live.fork: gr.Button(interactive=can_fork, visible=can_fork),
    }


def cleared(live: Live) -> Updates:
    """What to show of no run."""
    return {
        live.title: "", live.chart: "[]", live.warnings: "", live.result: "",
        live.words: notice(NO_WORDS, kind="hint"), live.log: results.log_html([]),
        live.stop: gr.Button("Stop", interactive=False, visible=True),
        live.hold: gr.Button(visible=False), live.fork: gr.Button(visible=False),
        live.inspect: gr.Button(interactive=False), live.reuse: gr.Button(interactive=False),
        live.timer: gr.Timer(active=False), live.seen: "",
    }


def fork(config: TrainConfig, run_id: str) -> TrainConfig:
    """The settings of a run that starts at the prompt which this one learned."""
    changes: dict[str, Any] = {"init": "from_run", "init_run": run_id, "name": None}
    if config.method != "prompt":       # a p-tuned prompt has left its encoder behind
        changes |= {"method": "prompt", "lr": METHOD_LR["prompt"]}
    return config.with_changes(**changes)


def held(context: Context, live: Live, run_id: str) -> Updates:
    """Pauses a run at work, or lets one that is paused or has ended early go on; what the page then shows."""
    runner, status = context.runner, context.store.run(run_id).status
    if status == "running":
        runner.pause(run_id)
        return {live.hold: gr.Button("Pausing…", interactive=False)}
    if status == "paused":
        runner.unpause(run_id)
        return {live.hold: gr.Button("Resuming…", interactive=False)}
    operations.prepare_resume(context.store, run_id)
    runner.resume(run_id)
    return shown(context, live, run_id)


def refreshed(context: Context, live: Live, run_id: str, seen: str) -> Any:
    """What has changed since the timer last looked; nothing, when nothing has."""
    store = context.store
    info = store.run(run_id)
    prompt = prompt_stamp(context, run_id)
    logs = store.logs(run_id)
    now = json.dumps([run_id, info.status, info.name, prompt, len(logs)])
    ended = info.status in ENDED
    if now == seen:
        return gr.skip()
    updates: Updates = {
        live.timer: gr.Timer(REST_SECONDS if ended else REFRESH_SECONDS),
        live.seen: now,
        live.title: results.title_html(info),
        live.warnings: results.warnings_html(info, logs),
        live.result: results.result_html(info, folder=store.folder(run_id)),
        live.log: results.log_html(logs),
    }
    if not seen or json.loads(seen)[:2] != [run_id, info.status]:      # else "Stopping…" would be lost
        updates |= _buttons(context, live, info)
    if reason := results.NO_TOKENS.get(str(info.config.get("method"))):
        updates[live.words] = notice(reason, kind="hint")
    elif prompt:
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
