"""The live loss chart: a component that the browser fills by asking only for points it has not seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from softprompt_core.config import METHOD_NAMES
from softprompt_core.errors import UserError
from softprompt_core.records import ENDED, RunInfo, StepRecord
from softprompt_core.store import Store

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FIRST_POINTS = 2_000
LIVE_POINTS = 40
MOST_RUNS = 60
SPEED_STEPS = 50
LOOK_AGAIN = "() => window.dispatchEvent(new Event('sp-look'))"
"""JavaScript after which every chart asks for news at once, for what a button has just set going."""


def loss_chart(
    store: Store, *, value: Sequence[str] = (), tiles: bool = False, height: int = 320,
    empty: str = "No run yet. Press Train: the loss appears here from the first steps on.", **look: Any,
) -> gr.HTML:
    """A chart of any number of runs; its value is a JSON list of run ids, and setting it switches runs.

    `empty` is said while there is no run; `tiles` adds status, step, losses, rate, speed, time left and device
    of the first run above the chart. A page that holds one needs `plotly_loader()` once.
    """
    return gr.HTML(
        json.dumps(list(value)),
        html_template=(
            '<div class="sp-live"><dl class="sp-tiles"></dl>'
            '<div class="sp-chart" role="img" aria-label="Loss over steps"></div>'
            '<p class="sp-chart-empty"></p></div>'
        ),
        js_on_load=(ASSETS / "js" / "live.js").read_text(encoding="utf-8"),
        server_functions=[curve_source(store)],
        tiles=tiles,
        height=height,
        empty=empty,
        **look,
    )


def plotly_loader() -> gr.Plot:
    """An unseen plot that makes the browser load the bundled plotly, so that `window.Plotly` exists."""
    import plotly.graph_objects as go

    return gr.Plot(go.Figure(), visible="hidden", show_label=False)


def run_ids(value: str | None) -> list[str]:
    """The run ids in a chart's value."""
    return [str(item) for item in json.loads(value)] if value else []


def curve_source(store: Store) -> Callable[[Any], dict[str, Any]]:
    """The function the browser calls: a list of [run_id, last step, evaluations seen] → news of each run."""

    def since(asked: Any) -> dict[str, Any]:
        news = []
        for item in _checked(asked):
            try:
                news.append(run_news(store, *item))
            except UserError:
                news.append({"id": item[0], "gone": True})
        return {"runs": news}

    return since


def run_news(store: Store, run_id: str, after: int, evals_seen: int) -> dict[str, Any]:
    """What a chart that has the steps up to `after` still lacks of one run, thinned."""
    info = store.run(run_id)  # before the metrics: "ended" must mean that nothing comes after them
    window = smoothing_window(info.steps)
    records = store.metrics(run_id, after=max(0, after - window))
    evals = [e for e in store.evals(run_id) if e.split == "validation" and e.source == "prompt"]
    new = [record for record in records if record.step > after]
    found: dict[str, Any] = {
        "id": run_id,
        "status": info.status,
        "step": info.step,
        "steps": info.steps,
        "ended": info.status in ENDED,
    }
    if new:
        found |= _points(records, new, window=window, most=LIVE_POINTS if after else FIRST_POINTS)
        found |= speed(records, info)
    if len(evals) > evals_seen:
        fresh = [e for e in evals[evals_seen:] if e.loss is not None]
        found |= {"vx": [e.step for e in fresh], "vy": [_short(e.loss) for e in fresh], "evals": len(evals)}
        found["va"] = [None if e.accuracy is None else round(e.accuracy, 4) for e in fresh]
    if not after:
        method = info.config.get("method", "prompt")
        found |= {"name": info.name, "init": info.config.get("init"), "seed": info.config.get("seed")}
        found |= {"method": METHOD_NAMES.get(method, method), "device": _device(store, info)}
    return found


def smoothing_window(steps: int) -> int:
    """How many steps the smoothed line averages over, back from each point."""
    return int(min(200, max(5, steps // 50)))


def thin(steps: np.ndarray, values: np.ndarray, *, most: int) -> np.ndarray:
    """Indices of at most about `most` points: lowest, highest and last of each bin of steps.

    Bins are as wide as a power of two and start at multiples of it, so a longer curve never moves a
    point that it keeps. steps, values: [N].
    """
    if len(steps) <= most:
        return np.arange(len(steps))
    width = 1
    while 3 * (int(steps[-1]) // width - int(steps[0]) // width + 1) > most:
        width *= 2
    kept: list[int] = []
    starts = np.flatnonzero(np.diff(steps // width, prepend=-1))
    for low, high in zip(starts, [*starts[1:], len(steps)], strict=True):
        part = values[low:high]
        kept += sorted({int(low + part.argmin()), int(low + part.argmax()), int(high - 1)})
    return np.array(kept)


def _points(
    records: list[StepRecord], new: list[StepRecord], *, window: int, most: int
) -> dict[str, Any]:
    losses = np.array([record.loss for record in records])
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    high = np.arange(len(records) - len(new), len(records)) + 1
    low = np.maximum(0, high - window)
    smooth = (sums[high] - sums[low]) / (high - low)
    steps = np.array([record.step for record in new])
    raw = losses[len(records) - len(new):]
    keep, line = thin(steps, raw, most=most), thin(steps, smooth, most=most)
    return {
        "x": steps[keep].tolist(), "y": [_short(v) for v in raw[keep]],
        "sx": steps[line].tolist(), "sy": [_short(v) for v in smooth[line]],
        "cursor": int(steps[-1]), "lr": new[-1].learning_rate, "loss": _short(smooth[-1]), "window": window,
    }


def speed(records: list[StepRecord], info: RunInfo) -> dict[str, Any]:
    """Tokens a second over the last steps, and the seconds left at that pace."""
    last = records[-SPEED_STEPS:]
    seconds = last[-1].seconds - last[0].seconds
    if len(last) < 2 or seconds <= 0:
        return {}
    return {
        "tps": round(sum(record.tokens for record in last[1:]) / seconds),
        "left": round(max(0, info.steps - last[-1].step) * seconds / (len(last) - 1), 1),
    }


def _device(store: Store, info: RunInfo) -> str:
    return str(info.result.get("device") or store.facts(info.run_id).get("device") or "")


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")


def _checked(asked: Any) -> list[tuple[str, int, int]]:
    """The browser's question, with anything malformed left out."""
    found = []
    for item in asked if isinstance(asked, list) else []:
        if isinstance(item, list) and len(item) == 3 and isinstance(item[0], str):
            try:
                found.append((item[0], max(0, int(item[1])), max(0, int(item[2]))))
            except (TypeError, ValueError, OverflowError):
                continue
    return found[:MOST_RUNS]

