"""The Compare tab: one click trains several initialisations, or methods, watched and read side by side.

The group shown is the value of two components: the loss chart and the panes. Both ask the store for news by
themselves, so a reload or a second browser only needs the group's id.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from softprompt_core.config import (
    BUNDLED_MODEL,
    INITS,
    METHOD_NAMES,
    METHODS,
    CompareConfig,
    TrainConfig,
    limits,
    parse_compare,
)
from softprompt_core.errors import UserError
from softprompt_core.operations import check
from softprompt_core.records import ENDED, RunInfo
from softprompt_core.ui import charts, form, messages, results
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import ASSETS, loss_chart
from softprompt_core.ui.opened import Opened, cloud_of, open_run, prompt_stamp, tokens_of

TO_CHART = "() => document.querySelector('#compare-chart')?.scrollIntoView({behavior: 'smooth', block: 'start'})"
SCRIPTS = ("space.js", "dust.js", "compare.js")
FIELDS = ("data", "model", "steps", "virtual_tokens", "lr")
FIELD = ("prompt", "prefix", "lora", "full")
"""The methods that papers on soft prompts set side by side."""
SHOTS = 4
"""Examples of the few-shot baseline beside a comparison of methods."""
WORDS = 3
"""Nearest words of a virtual token in a pane: the first is shown, the others on asking."""


def build(context: Context) -> None:
    """Builds the tab inside the current layout."""
    with gr.Column(elem_id="compare-tab", elem_classes="sp-compare"):
        parts = _form(context)
        with gr.Row(elem_classes="sp-compare-pick"):
            group = gr.Dropdown(
                [], label="Comparison", elem_id="compare-group", scale=5, min_width=240,
                info="The one shown below; earlier ones stay here.",
            )
            stop = gr.Button("Stop all", variant="stop", elem_id="compare-stop", scale=0, min_width=120, size="md")
        chart = loss_chart(
            context.store, height=340, elem_id="compare-chart",
            empty="No comparison yet. Start one above: every run's loss appears here from the first steps on.",
        )
        panes = gr.HTML(
            "",
            elem_id="compare-view",
            html_template=(ASSETS / "html" / "compare.html").read_text(encoding="utf-8"),
            js_on_load="\n".join((ASSETS / "js" / name).read_text(encoding="utf-8") for name in SCRIPTS),
            apply_default_css=False,
            server_functions=sources(context),
        )

    root = context.store.root
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @messages.guarded(root, "starting the comparison")
    def start_inits(wanted: list[str], count: float | None, *values: Any) -> Any:
        return start(arms(values, inits=wanted, seeds=count))

    @messages.guarded(root, "starting the comparison")
    def start_methods(wanted: list[str], count: float | None, *values: Any) -> Any:
        return start(method_arms(values, methods=wanted, seeds=count))

    def start(wanted: list[TrainConfig]) -> Any:
        configs = [config.with_changes(device=context.device) for config in wanted]
        check(configs[0])
        run_ids = context.runner.submit(configs)
        return shown(context.store.run(run_ids[0]).group_id or "")

    @messages.guarded(root, "opening the page")
    def attach() -> Any:
        return shown(newest(groups(context)))

    def shown(group_id: str) -> Any:
        choices = [(group_label(infos), key) for key, infos in groups(context)]
        infos = context.store.group(group_id) if group_id else []
        return gr.Dropdown(choices=choices, value=group_id or None), curves(infos), group_id

    @messages.guarded(root, "opening a comparison")
    def switch(group_id: str | None) -> Any:
        return curves(context.store.group(group_id or "")), group_id or ""

    @messages.guarded(root, "stopping the comparison")
    def stop_all(group_id: str | None) -> None:
        asked = [info.run_id for info in context.store.group(group_id or "") if info.status not in ENDED]
        stopped = sum(context.runner.stop(run_id) for run_id in asked)
        if not stopped:
            raise UserError("Every run of this comparison has ended; there is nothing to stop.")
        gr.Info(f"Stopping {stopped} runs. Each keeps its best prompt.")

    outputs = [group, chart, panes]
    fields = list(parts.fields.values())
    for button, handler, wanted in (
        (parts.go, start_inits, parts.inits), (parts.go_methods, start_methods, parts.methods)
    ):
        button.click(handler, [wanted, parts.seeds, *fields], outputs, **quiet).then(
            None, js=TO_CHART, api_visibility="private"
        )
    group.input(switch, group, [chart, panes], **quiet)
    stop.click(stop_all, group, None, **quiet)
    demo = gr.context.Context.root_block
    if demo is not None:
        demo.load(attach, None, outputs, **quiet)


@dataclass(frozen=True)
class CompareForm:
    """The parts of the form; `fields` holds the settings that all runs share."""

    fields: dict[str, Any]
    inits: gr.CheckboxGroup
    methods: gr.CheckboxGroup
    seeds: gr.Number
    go: gr.Button
    go_methods: gr.Button


def _form(context: Context) -> CompareForm:
    with gr.Row(elem_classes="sp-compare-choice"):
        with gr.Column(min_width=310):
            inits = gr.CheckboxGroup(
                [(name.replace("_", " "), name) for name in INITS if name != "from_run"],
                value=list(CompareConfig().inits), label="Initialisations", elem_id="compare-inits",
                info="Random and text differ in two ways; sampled vocab starts at real words too, but at random ones.",
            )
            go = gr.Button("Compare initialisations", variant="primary", elem_id="compare-go")
        with gr.Column(min_width=310):
            methods = gr.CheckboxGroup(
                [(METHOD_NAMES[name], name) for name in METHODS], value=list(FIELD), label="Methods",
                elem_id="compare-methods",
                info=f"Each at its own learning rate, beside a hand-written prompt, {SHOTS} examples and the majority.",
            )
            go_methods = gr.Button("The field’s comparison", elem_id="compare-go-methods")
    fields, seeds = _shared_form(context)
    return CompareForm(fields, inits, methods, seeds, go, go_methods)


def _shared_form(context: Context) -> tuple[dict[str, Any], gr.Number]:
    """(the settings that all runs share, how many seeds each arm gets)."""
    from softprompt_core.sources import list_bundled

    defaults = TrainConfig()
    data = [(name, name) for name in list_bundled()] + form.uploads(context.store.root)
    with gr.Row(elem_classes="sp-compare-form"):
        data_field = gr.Dropdown(
            data, value=defaults.data, label="Data", elem_id="compare-data", allow_custom_value=True, min_width=150,
            info="A bundled name, an upload, a file or folder", scale=2,
        )
        model = gr.Dropdown(
            [(f"{BUNDLED_MODEL} (small, offline)", BUNDLED_MODEL)], value=defaults.model, label="Model",
            elem_id="compare-model", allow_custom_value=True, min_width=150, info="A folder or a hub id works too",
            scale=2,
        )
        seeds = gr.Number(
            1, precision=0, minimum=1, maximum=50, label="Seeds", elem_id="compare-seeds", min_width=110,
            info="best: 3 or more",
        )
        numbers = {
            name: gr.Number(
                getattr(defaults, name), precision=None if name == "lr" else 0, min_width=110,
                step=form.LR_STEP if name == "lr" else 1, label=sentence_case(name), elem_id=f"compare-{name}",
                info="of prompt tuning" if name == "lr" else allowed(name),
            )
            for name in ("steps", "virtual_tokens", "lr")
        }
    return {"data": data_field, "model": model, **numbers}, seeds


def sentence_case(field: str) -> str:
    title = TrainConfig.model_fields[field].title or field
    return title[0].upper() + title[1:]


def allowed(field: str) -> str:
    """The limits of a number in words."""
    found = limits(field)
    low = f"above {found['gt']:g}" if "gt" in found else f"{found.get('ge', 0):g}"
    return f"{low} to {found['le']:,.0f}" if "le" in found else low


def arms(values: Sequence[Any], *, inits: Sequence[str], seeds: float | None) -> list[TrainConfig]:
    """The settings of every run that the form asks for. Raises UserError naming every mistake at once."""
    if not inits:
        raise UserError("No initialisation is ticked. Tick at least one; random and text are the usual pair.")
    compare = parse_compare(form.read(FIELDS, values), inits=list(inits), seeds=1 if seeds is None else seeds)  # type: ignore[arg-type]
    configs = compare.arms()
    if len(configs) < 2:
        raise UserError("One run is no comparison. Tick a second initialisation, or ask for more seeds.")
    return configs


def method_arms(values: Sequence[Any], *, methods: Sequence[str], seeds: float | None) -> list[TrainConfig]:
    """The settings of every run of a comparison of methods. Raises UserError naming every mistake at once."""
    if len(methods) < 2:
        raise UserError("A comparison needs two methods or more. Tick LoRA beside the soft prompt, for example.")
    base = form.read(FIELDS, values).with_changes(shots=SHOTS)
    ordered = [name for name in METHODS if name in methods]
    count = 1 if seeds is None else seeds
    return parse_compare(base, inits=[base.init], seeds=count, methods=ordered).arms()  # type: ignore[arg-type]


def groups(context: Context) -> list[tuple[str, list[RunInfo]]]:
    """(group id, its runs) of every comparison, newest first."""
    found: dict[str, list[RunInfo]] = {}
    for info in context.store.runs():
        if info.group_id:
            found.setdefault(info.group_id, []).insert(0, info)
    return list(found.items())


def newest(found: Sequence[tuple[str, list[RunInfo]]]) -> str:
    """The id of the newest comparison at work, else of the newest; empty when there is none."""
    at_work = [key for key, infos in found if any(info.status not in ENDED for info in infos)]
    return (at_work or [key for key, _ in found] or [""])[0]


def group_label(infos: Sequence[RunInfo]) -> str:
    """How a comparison is called in the list."""
    first = infos[0]
    names = list(dict.fromkeys(charts.arm_names(infos)))
    listed = " / ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    seeds = len({info.config.get("seed") for info in infos})
    when = time.strftime("%d %b %H:%M", time.localtime(first.created))
    data = str(first.config.get("data")).rsplit("/", 1)[-1]
    return f"{when} · {data} · {listed} · {seeds} seed{'s' if seeds > 1 else ''}"


def curves(infos: Sequence[RunInfo]) -> str:
    """The loss chart's value for these runs."""
    return json.dumps([info.run_id for info in infos])


# ------------------------------------------------- what the browser may ask


def sources(context: Context) -> list[Callable[[Any], str]]:
    """The functions the page's script calls: the news of a comparison, and the vocabulary's picture."""
    root = context.store.root

    def news(asked: Any) -> str:
        try:
            group_id, seen = _checked(asked)
            return group_news(context, group_id, seen)
        except Exception as error:
            return charts.compact({"error": messages.sentence(error, root=root, doing="reading the comparison")})

    def cloud(key: Any) -> str:
        try:
            return cloud_of(str(key))
        except UserError as error:
            return charts.compact({"error": str(error)})

    return [news, cloud]


def group_news(context: Context, group_id: str, seen: dict[str, str]) -> str:
    """What a page that has seen these stamps (run id → stamp) still lacks of a comparison; empty when nothing.

    Runs whose prompt has moved come with their words and places; the verdict comes once, when all have ended.
    """
    infos = context.store.group(group_id)
    if not infos:
        return charts.compact({"empty": True})
    changed = []
    for info, arm in zip(infos, charts.arm_names(infos), strict=True):
        has_tokens = charts.method_of(info) not in results.NO_TOKENS
        prompt = prompt_stamp(context, info.run_id) if has_tokens else ""
        facts = f"{info.status}:{info.step}"
        before_facts, _, before_prompt = seen.get(info.run_id, "").partition("|")
        prompt_mark = f"{'live' if info.status not in ENDED else 'end'}:{prompt}"
        if facts == before_facts and prompt_mark == before_prompt:
            continue
        item = run_item(info, arm=arm, validation=validation_accuracy(context, info))
        item["stamp"] = f"{facts}|{prompt_mark}"
        if prompt and prompt_mark != before_prompt:
            item |= prompt_item(open_run(context, info.run_id))
        changed.append(item)
    if not changed:
        return ""
    ended = all(info.status in ENDED for info in infos)
    return charts.compact({
        "order": [info.run_id for info in infos], "runs": changed, "ended": ended,
        "summary": summary(infos) if ended else None,
    })


def validation_accuracy(context: Context, info: RunInfo) -> float | None:
    """The newest accuracy on the validation rows; None when there is none yet."""
    found = [e.accuracy for e in context.store.evals(info.run_id) if e.split == "validation" and e.source == "prompt"]
    return found[-1] if found else None


def run_item(info: RunInfo, *, arm: str, validation: float | None) -> dict[str, Any]:
    """The facts of one run in a pane."""
    result, method = info.result, charts.method_of(info)
    return {
        "id": info.run_id, "arm": arm, "init": str(info.config.get("init")), "method": method,
        "no_tokens": results.NO_TOKENS.get(method), "seed": info.config.get("seed"), "status": info.status,
        "step": info.step, "steps": info.steps, "line": charts.result_line(info),
        "validation": validation, "accuracy": result.get("eval_accuracy"), "low": result.get("eval_accuracy_low"),
        "high": result.get("eval_accuracy_high"), "baselines": charts.baselines(result),
    }


def prompt_item(opened: Opened) -> dict[str, Any]:
    """Words and places of one run's prompt: words is [[word, cosine, z, echo, others], …]."""
    from softprompt_core.inspection.projection import project

    space = opened.space
    readings = tokens_of(opened, metric="cosine", correction="none", whole_words=False, top=WORDS)
    words: list[list[Any]] = []
    for reading in readings:
        tokens = [n.token for n in reading.neighbours] or ["–"]
        score = reading.neighbours[0].score if reading.neighbours else None
        words.append([tokens[0], charts.number(score), charts.number(reading.z), reading.echo, tokens[1:]])
    places = charts.quantise(project(opened.prompt, space.basis)[:, :2], charts.grid_step(space.coordinates))
    return {
        "words": words, "xy": places.ravel().tolist(), "prompt_step": opened.step, "key": space.key,
        "explained": charts.rounded(space.basis.explained_variance_ratio[:2]),
    }


def summary(infos: Sequence[RunInfo]) -> dict[str, Any]:
    """Table and verdict of a comparison that has ended."""
    from softprompt_core.experiments import comparison_document

    named = [    # the verdict calls the arms what the page calls them
        replace(info, config={**info.config, "init": name})
        for info, name in zip(infos, charts.arm_names(infos), strict=True)
    ]
    return charts.summary_payload(infos) | {"verdict": comparison_document(named)["verdict"]}


def _checked(asked: Any) -> tuple[str, dict[str, str]]:
    if not isinstance(asked, dict) or not isinstance(asked.get("seen"), dict):
        raise UserError("The page asked for a comparison in a way that is not known. Reload the page.")
    return str(asked.get("group", "")), {str(key): str(value) for key, value in asked["seen"].items()}
