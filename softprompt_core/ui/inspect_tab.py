"""The Inspect tab: the words of a prompt in a table, the prompt among the vocabulary in a map, both linked.

The page holds one component whose value is the reading asked for (run and switches, as JSON); its scripts fetch
the reading and, once per base model, the vocabulary's picture, and link table and map without asking the server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt_core import studies
from softprompt_core.errors import UserError
from softprompt_core.records import ENDED, RunInfo
from softprompt_core.ui import charts, messages, readings_view, results
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import ASSETS
from softprompt_core.ui.opened import (
    Correction,
    Metric,
    Opened,
    cloud_of,
    find_words,
    open_run,
    prompt_stamp,
    shares_of,
    tokens_of,
)

SCRIPTS = ("space.js", "dust.js", "map.js", "tokens.js", "drawing.js", "readings.js", "inspect.js")
MOST_NEIGHBOURS = 25
METRICS = {"cosine": "cosine", "dot product": "dot", "distance": "l2"}
CORRECTIONS = {"none": "none", "centred": "centred", "CSLS": "csls", "all but the top": "all_but_top"}
NO_RUNS = "No prompt to read yet"


class Asked(BaseModel):
    """The reading that the page asks for; `seen` is the stamp of the one it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field("", max_length=100)
    metric: Metric = "cosine"
    correction: Correction = "none"
    whole_words: bool = False
    top: int = Field(10, ge=1, le=MOST_NEIGHBOURS)
    seen: str = ""

    def settings(self) -> dict[str, Any]:
        """The switches that the readings take."""
        return self.model_dump(include={"metric", "correction", "whole_words", "top"})


def build(context: Context, selected_run: gr.components.Component) -> None:
    """Builds the tab inside the current layout; `selected_run` holds the id of a run opened elsewhere."""
    with gr.Column(elem_id="inspect-tab", elem_classes="sp-inspect"):
        with gr.Row(elem_classes="sp-inspect-form"):
            run = gr.Dropdown(
                [], label="Run", elem_id="inspect-run", scale=5, min_width=260,
                info="Every run that has a prompt, newest first; one still training shows its newest prompt.",
            )
            refresh = gr.Button("Refresh list", elem_id="inspect-refresh", scale=0, min_width=120, size="md")
        with gr.Row(elem_classes="sp-inspect-switches"):
            metric = gr.Radio(
                list(METRICS.items()), value="cosine", label="Nearness", elem_id="inspect-metric", scale=3,
                min_width=240,
            )
            correction = gr.Dropdown(
                list(CORRECTIONS.items()), value="none", label="Correction", elem_id="inspect-correction",
                scale=2, min_width=150,
            )
            top = gr.Slider(
                1, MOST_NEIGHBOURS, value=10, step=1, label="Words per token", elem_id="inspect-top", scale=2,
                min_width=160,
            )
            whole_words = gr.Checkbox(
                label="Whole words only", value=False, elem_id="inspect-whole", scale=1, min_width=150,
            )
        view = gr.HTML(
            "",
            elem_id="inspect-view",
            html_template=template(),
            js_on_load="\n".join((ASSETS / "js" / name).read_text(encoding="utf-8") for name in SCRIPTS),
            apply_default_css=False,
            server_functions=sources(context) + readings_view.sources(context),
        )

    form = [run, metric, correction, whole_words, top]
    root = context.store.root

    @messages.guarded(root, "reading the form")
    def ask(run_id: str | None, metric: str, correction: str, whole_words: bool, top: int) -> str:
        return json.dumps({
            "run": run_id or "", "metric": metric, "correction": correction, "whole_words": bool(whole_words),
            "top": int(top),
        })

    @messages.guarded(root, "listing the runs")
    def list_runs(shown: str | None, wanted: str | None = None) -> Any:
        choices = run_choices(context)
        known = [value for _, value in choices]
        if wanted and wanted not in known:      # opened from elsewhere: the reading says why there is none
            choices.append((run_label(context.store.run(wanted)), wanted))
        value = wanted or (shown if shown in known else known[0] if known else None)
        return gr.Dropdown(choices=choices, value=value)

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    gr.on([component.change for component in (metric, correction, whole_words)], ask, form, view, **quiet)
    run.change(ask, form, view, **quiet)
    top.release(ask, form, view, **quiet)
    refresh.click(list_runs, run, run, **quiet)
    run.input(lambda: "", None, selected_run, **quiet)  # so that opening the same run again is a change
    selected_run.change(list_runs, [run, selected_run], run, **quiet)  # type: ignore[attr-defined]
    tab = gr.context.Context.block
    if isinstance(tab, gr.Tab):
        tab.select(list_runs, [run, selected_run], run, **quiet)


def template() -> str:
    """The component's markup: table and map, with the readings that need the model where they belong."""
    page, readings = (
        (ASSETS / "html" / name).read_text(encoding="utf-8") for name in ("inspect.html", "readings.html")
    )
    return page.replace("<!-- readings.html -->", readings)


def run_choices(context: Context) -> list[tuple[str, str]]:
    """(label, run id) of every run that has a prompt, newest first."""
    return [(run_label(info), info.run_id) for info in context.store.runs() if context.store.has_prompt(info.run_id)]


def run_label(info: RunInfo) -> str:
    """How a run is called in a list: name, outcome and the end of its id, which tells twins apart."""
    accuracy = info.result.get("eval_accuracy")
    outcome = charts.percent(accuracy) if accuracy is not None else info.status
    return f"{info.name} · {outcome} · {info.run_id[-4:]}"


# ------------------------------------------------- what the browser may ask


def sources(context: Context) -> list[Callable[[Any], str]]:
    """The functions the page's script calls; each takes one JSON value and gives a JSON string."""

    def answer(doing: str, work: Callable[[Any], str]) -> Callable[[Any], str]:
        def run(asked: Any) -> str:
            try:
                return work(asked)
            except Exception as error:
                return charts.compact({"error": messages.sentence(error, root=context.store.root, doing=doing)})

        return run

    reading = answer("reading the prompt", lambda asked: read(context, parse(asked)))
    cloud = answer("drawing the vocabulary", lambda key: cloud_of(str(key)))
    find = answer("looking for a word", _find)
    table = answer("writing the table", lambda asked: table_file(context, parse(asked)))
    document = answer("writing the inspection", lambda asked: document_file(context, parse(asked)))
    for function, name in (
        (reading, "reading"), (cloud, "cloud"), (find, "find"), (table, "table"), (document, "document")
    ):
        function.__name__ = name  # the name under which the script calls it
    return [reading, cloud, find, table, document]


def parse(asked: Any) -> Asked:
    """The checked question. Raises UserError when it is malformed."""
    try:
        return Asked.model_validate(asked)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        raise UserError(f"The page asked for a reading that does not exist ({what}). Reload the page.") from None


def read(context: Context, asked: Asked) -> str:
    """The reading as JSON; empty when the page already shows it."""
    if not asked.run:
        return charts.compact({"empty": NO_RUNS})
    info = context.store.run(asked.run)
    if reason := results.NO_TOKENS.get(str(info.config.get("method"))):
        return charts.compact({"none": info.name, "why": reason, "line": charts.result_line(info)})
    prompt = prompt_stamp(context, asked.run)
    if not prompt:
        return charts.compact({"waiting": charts.result_line(info), "live": info.status not in ENDED})
    stamp = f"{info.status}:{prompt}"
    if stamp == asked.seen:
        return ""
    opened = open_run(context, asked.run)
    return payload(opened, asked, stamp=stamp)


def payload(opened: Opened, asked: Asked, *, stamp: str) -> str:
    """Table and places of one opened run."""
    from softprompt_core.inspection.projection import project

    info, space = opened.info, opened.space
    count, width, size = len(opened.steps), *opened.prompt.shape
    projected = project(opened.prompts.reshape(count * width, size), space.basis).reshape(count, width, -1)
    frames = charts.frames_payload(
        opened.steps.tolist(), projected, step=opened.step, current=project(opened.prompt, space.basis),
        coordinates=space.coordinates,
    )
    about = {
        "run": info.run_id, "name": info.name, "status": info.status, "live": info.status not in ENDED,
        "step": opened.step, "line": charts.result_line(info), "facts": charts.run_facts(info),
        "top": asked.top, "measure": measure(asked), "stamp": stamp,
    }
    return charts.reading_payload(
        tokens_of(opened, **asked.settings()),
        texts=space.vocabulary.texts, coordinates=space.coordinates, shares=shares_of(opened),
        explained=space.basis.explained_variance_ratio, frames=frames, about=about, key=space.key,
    )


def measure(asked: Asked) -> str:
    """The measure in words, for the table's caption."""
    name = {value: title for title, value in METRICS.items()}[asked.metric]
    corrected = {value: title for title, value in CORRECTIONS.items()}[asked.correction]
    return name + ("" if asked.correction == "none" else f", {corrected}") + (
        ", whole words only" if asked.whole_words else ""
    )


def table_file(context: Context, asked: Asked) -> str:
    """{"name", "text"} of the table as CSV."""
    opened = open_run(context, asked.run)
    readings = tokens_of(opened, **asked.settings())
    text = charts.tokens_csv(readings, shares_of(opened))
    return charts.compact({"name": f"{asked.run}-tokens.csv", "text": text})


def document_file(context: Context, asked: Asked) -> str:
    """{"name", "text"} of the whole inspection as JSON, with the readings that have been made."""
    document = studies.inspection_with_readings(context.store, asked.run, **asked.settings())
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return charts.compact({"name": f"{asked.run}-inspection.json", "text": text})


def _find(asked: Any) -> str:
    if not isinstance(asked, dict):
        raise UserError("The page asked for a word in a way that is not known. Reload the page.")
    return charts.compact(find_words(str(asked.get("key", "")), str(asked.get("query", ""))[:100]))
