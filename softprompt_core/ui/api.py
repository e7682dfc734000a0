"""The HTTP endpoints that other programs rely on; every one checks its input, for Gradio doesn't."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gradio as gr

from softprompt_core import operations, studies
from softprompt_core.config import config_from_json, parse_compare, parse_config
from softprompt_core.errors import UserError
from softprompt_core.store import Store
from softprompt_core.ui.context import Context
from softprompt_core.ui.messages import sentence
from softprompt_core.ui.runs_tab import zip_of

MOST_ROWS = 10_000


def build(context: Context) -> None:
    """Adds the endpoints to the page that is being built."""
    store = context.store

    def train(settings: dict) -> dict:
        """Starts a run with these settings (the names of the command line) and gives back its id at once."""
        config = parse_config(operations.with_start(store, _settings(settings)))
        operations.check(config, store)
        return {"run_id": context.runner.submit([config])[0]}

    def preflight(settings: dict) -> dict:
        """What a run with these settings would come to, with warnings; nothing is trained, no run is made."""
        config = parse_config(operations.with_start(store, _settings(settings)))
        operations.check(config, store)
        return operations.preflight(config, store=store, may_load=True).document()

    def resume(run_id: str, steps: int = 0) -> dict:
        """Lets a run that was stopped or broken off go on from its newest checkpoint; steps in all, 0 as before."""
        wanted = _whole(steps, "steps", low=0) or None
        operations.prepare_resume(store, _text(run_id, "run_id"), steps=wanted)
        context.runner.resume(run_id)
        return {"run_id": run_id}

    def stop(run_id: str) -> dict:
        """Asks a run to stop; its best prompt is kept."""
        store.run(_text(run_id, "run_id"))
        return {"run_id": run_id, "stopping": context.runner.stop(run_id)}

    def status(run_id: str) -> dict:
        """The state of one run, with its result when it has ended."""
        return operations.listing(store.run(_text(run_id, "run_id")))

    def metrics(run_id: str, after: int = 0) -> dict:
        """Steps later than `after` and every evaluation of a run; at most 10,000 steps a call."""
        store.run(_text(run_id, "run_id"))
        steps = store.metrics(run_id, after=_whole(after, "after", low=0), limit=MOST_ROWS)
        return {"steps": [asdict(s) for s in steps], "evals": [asdict(e) for e in store.evals(run_id)]}

    def compare(settings: dict, inits: list, seeds: int = 1, methods: list = ["prompt"]) -> dict:  # noqa: B006
        """Starts one run for each initialisation (of methods that have one), method and seed: ids, and the group's."""
        base = parse_config(operations.with_start(store, _settings(settings)))
        operations.check(base, store)
        count = _whole(seeds, "seeds", low=1)
        arms = parse_compare(base, inits=list(inits or []), seeds=count, methods=list(methods or [])).arms()
        run_ids = context.runner.submit(arms)
        return {"group_id": store.run(run_ids[0]).group_id, "run_ids": run_ids}

    def inspect(run_id: str, top: int = 10, metric: str = "cosine", correction: str = "none") -> dict:
        """The words nearest to each virtual token, and how far to trust them; with the readings kept with the run."""
        switches: dict[str, Any] = {"top": _whole(top, "top", low=1), "metric": metric, "correction": correction}
        return studies.inspection_with_readings(store, _text(run_id, "run_id"), **switches)

    def predict(run_id: str, texts: list) -> list:
        """A label with scores for each text."""
        rows = operations.text_rows(store, _text(run_id, "run_id"), texts if isinstance(texts, list) else [])
        return operations.predict_with_run(store, run_id, rows)

    def runs() -> list:
        """Every run, newest first."""
        return [operations.listing(info) for info in store.runs()]

    for endpoint in (train, preflight, stop, resume, status, metrics, compare, inspect, predict, runs):
        gr.api(_checked(store, endpoint), api_name=endpoint.__name__)
    _build_export(context)


def _build_export(context: Context) -> None:
    """/export gives a file, so it needs components; none of them is seen."""
    def export(run_id: str) -> str:
        return str(zip_of(context, _text(run_id, "run_id")))

    run_id, file = gr.Textbox(visible=False, label="run_id"), gr.File(visible=False, label="zip")
    run_id.submit(_checked(context.store, export), run_id, file, api_name="export",
                  api_description="A run as a zip of a folder that peft.PeftModel.from_pretrained loads.")


def _checked(store: Store, endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, whose errors reach the caller as one or two sentences."""

    @functools.wraps(endpoint)
    def call(*args: Any) -> Any:
        try:
            return endpoint(*args)
        except Exception as error:
            doing = f"answering /{endpoint.__name__}"
            raise gr.Error(sentence(error, root=store.root, doing=doing)) from None

    return call


def _settings(value: Any) -> dict[str, Any]:
    return config_from_json(json.dumps(value), origin="settings")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name}: {value!r} was given; give it as text.")
    return value


def _whole(value: Any, name: str, *, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{name}: {value!r} was given; allowed is a whole number of at least {low}.")
    return value
