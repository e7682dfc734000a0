"""Records turned into what the browser draws: JSON strings of bounded size, table rows and sentences.

Pure functions, no Gradio, no torch. Vocabulary text passes through raw: the scripts in assets/js put it on the
page with textContent and escape it for Plotly. Axis letters: P virtual tokens, V vocabulary, S snapshots, C components.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softprompt_core.config import METHOD_NAMES
from softprompt_core.records import RunInfo, TokenReading

MAX_WORDS_DRAWN = 20_000
MAX_LABEL = 24
"""Characters of a word in the picture; with MAX_WORDS_DRAWN it keeps the picture under 3 MB whatever the words are."""
MAX_PATH_POINTS = 30_000
GRID = 9_999
"""Map coordinates travel as whole numbers; the vocabulary spans ±GRID."""
WEAK_Z = 3.0
BASELINES = {
    "majority": "the majority class", "hand_written": "a hand-written prompt", "few_shot": "a few examples",
    "no_prompt": "no prompt",
}

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


def cloud_payload(
    texts: Sequence[str], coordinates: Floats, *, is_listed: Bools, explained: Floats, key: str,
    left_out: Mapping[str, int] | None = None, limit: int = MAX_WORDS_DRAWN,
) -> str:
    """The vocabulary as JSON for the map, the same for every run of a base model.

    coordinates: [V, C]. At most `limit` listed words, drawn evenly at random from a fixed seed; how many were
    left undrawn is part of the payload.
    """
    listed = np.flatnonzero(is_listed)
    drawn = listed
    if len(listed) > limit:
        drawn = np.sort(np.random.default_rng(0).choice(listed, size=limit, replace=False))
    points = quantise(coordinates[drawn], grid_step(coordinates))
    return compact({
        "key": key,
        "text": [short(texts[int(i)]) for i in drawn],
        "xyz": [points[:, c].tolist() for c in range(points.shape[1])],
        "drawn": len(drawn),
        "listed": len(listed),
        "total": len(texts),
        "left_out": dict(left_out or {}),
        "explained": rounded(explained),
    })


def reading_payload(
    readings: Sequence[TokenReading], *, texts: Sequence[str], coordinates: Floats, shares: Floats,
    explained: Floats, frames: Mapping[str, Any], about: Mapping[str, Any], key: str,
) -> str:
    """One reading of one prompt as JSON: the table, and the place of every neighbour in the map.

    coordinates: [V, C] of the vocabulary; shares: [P, 2], each token's share in the plane and in the space.
    """
    step = grid_step(coordinates)
    near = sorted({n.id for reading in readings for n in reading.neighbours})
    places = quantise(coordinates[near], step).tolist() if near else []
    tokens = [
        {
            "i": r.index, "norm": number(r.norm), "pct": number(r.norm_percentile), "z": number(r.z), "echo": r.echo,
            "start": r.start_token, "moved": number(r.displacement), "share": rounded(share),
            "near": [[n.id, number(n.score)] for n in r.neighbours],
        }
        for r, share in zip(readings, shares, strict=True)
    ]
    words = {word: [texts[word], *place] for word, place in zip(near, places, strict=True)}
    return compact({
        "key": key, "about": about, "tokens": tokens, "words": words, "frames": frames,
        "explained": rounded(explained),
    })


def frames_payload(
    steps: Sequence[int], projected: Floats, *, step: int, current: Floats, coordinates: Floats
) -> dict[str, Any]:
    """The way of a prompt over training, on the vocabulary's fixed axes.

    projected: [S, P, C] snapshots; current: [P, C], the prompt of `step` that the table reads. Long ways are
    thinned evenly, first and current frame kept; `now` is the current frame.
    """
    keep = [s for s in range(len(steps)) if steps[s] != step]
    room = max(1, MAX_PATH_POINTS // max(1, len(current)))
    if len(keep) > room:
        keep = [keep[i] for i in np.unique(np.linspace(0, len(keep) - 1, room).round().astype(int))]
    frames = sorted([(int(steps[s]), projected[s]) for s in keep] + [(step, current)], key=lambda frame: frame[0])
    unit = grid_step(coordinates)
    return {
        "steps": [at for at, _ in frames],
        "xyz": [quantise(points, unit).ravel().tolist() for _, points in frames],
        "now": [at for at, _ in frames].index(step),
        "dims": int(current.shape[1]),
    }


def grid_step(coordinates: Floats) -> float:
    """The length of one unit of the map's whole-number grid: the vocabulary reaches ±GRID."""
    reach = float(np.abs(coordinates).max()) if coordinates.size else 0.0
    return reach / GRID or 1.0


def quantise(points: Floats, step: float) -> NDArray[np.int64]:
    """Points on the map's whole-number grid."""
    return np.rint(np.asarray(points, np.float64) / step).astype(np.int64)


# ------------------------------------------------------------------ sentences


def run_facts(info: RunInfo) -> list[list[str]]:
    """What stands above an inspection: [name, value] pairs."""
    config = info.config
    return [
        ["method", METHOD_NAMES.get(method_of(info), method_of(info))],
        ["model", str(config.get("model", ""))],
        ["data", str(config.get("data", ""))],
        ["initialisation", str(config.get("init", ""))],
        ["seed", str(config.get("seed", ""))],
        ["virtual tokens", str(config.get("virtual_tokens", ""))],
        ["steps", f"{info.step:,} of {info.steps:,}"],
    ]


def result_line(info: RunInfo) -> str:
    """The outcome of a run in one sentence, beside its baselines; or why there is none yet."""
    result = info.result
    accuracy = result.get("eval_accuracy")
    if accuracy is None:
        if info.status == "queued":
            return "Waiting for its turn."
        if info.status in ("running", "paused"):
            return f"Training: step {info.step:,} of {info.steps:,}. The test figures come at the end."
        why = f" {info.reason}" if info.reason else ""
        return f"No test figures: the run was {info.status} at step {info.step:,}.{why}"
    text = f"Test accuracy {percent(accuracy)}{interval(result)}"
    if result.get("test_rows"):
        text += f" on {result['test_rows']:,} rows"
    beside = [f"{name} {percent(value)}" for name, value in baselines(result)]
    return text + (f", against {', '.join(beside)}." if beside else ".")


def baselines(result: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(name, accuracy) of what the prompt must beat, as far as it was measured."""
    found = result.get("baselines") or {}
    pairs = [(title, (found.get(key) or {}).get("accuracy")) for key, title in BASELINES.items()]
    return [(title, value) for title, value in pairs if value is not None]


def interval(result: Mapping[str, Any]) -> str:
    """' (82–90 %)', the 95 % interval of the accuracy; empty when there is none."""
    low, high = result.get("eval_accuracy_low"), result.get("eval_accuracy_high")
    return "" if low is None or high is None else f" (95 %: {100 * low:.0f}–{100 * high:.0f} %)"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


# -------------------------------------------------------------------- tables


def tokens_csv(readings: Sequence[TokenReading], shares: Floats) -> str:
    """The token table as CSV; cells that a spreadsheet would run as a formula are neutralised."""
    top = max((len(r.neighbours) for r in readings), default=0)
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    head = ["virtual_token", "z", "norm", "norm_percentile", "start_word", "echo", "displacement", "share_in_plane"]
    write(head + [f"{name}_{k + 1}" for k in range(top) for name in ("word", "score")])
    for r, share in zip(readings, shares, strict=True):
        echo = "" if r.echo is None else "yes" if r.echo else "no"
        cells: list[Any] = [r.index, r.z, r.norm, r.norm_percentile, r.start_token, echo, r.displacement]
        cells.append(float(share[0]))
        for n in r.neighbours:
            cells += [n.token, n.score]
        write([neutral(cell) for cell in cells])
    return out.getvalue()


def neutral(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text starting with = + - @ gets an apostrophe before it."""
    if isinstance(cell, str) and cell.lstrip("\t\r\n ")[:1] in ("=", "+", "-", "@"):
        return "'" + cell
    return number(cell) if isinstance(cell, float) else "" if cell is None else cell


def summary_payload(infos: Sequence[RunInfo]) -> dict[str, Any]:
    """A comparison as the page's table: a row an arm, then what needs no training; accuracies between 0 and 1.

    Its cells: accuracy, loss, trained numbers, seconds, runs.
    The interval of an arm is that of its mean over seeds; with one seed, that of its accuracy over the test rows.
    """
    arms: dict[str, list[RunInfo]] = {}
    for info, name in zip(infos, arm_names(infos), strict=True):
        arms.setdefault(name, []).append(info)
    rows = [_arm_row(name, runs) for name, runs in arms.items()]
    tested = [info.result for info in infos if info.result.get("eval_accuracy") is not None]
    found: dict[str, Any] = next((result["baselines"] for result in tested if result.get("baselines")), {})
    for key, title in BASELINES.items():
        if (figures := found.get(key)) and figures.get("accuracy") is not None:
            rows.append({
                "name": title[0].upper() + title[1:], "is_arm": False, "mean": number(figures["accuracy"]), "low": None,
                "high": None, "dots": [], "cells": [percent(figures["accuracy"]), loss_text(figures), "0", "", ""],
            })
    spans = {len(row["dots"]) > 1 for row in rows if row["is_arm"] and row["dots"]}
    return {"rows": rows, "interval": "over seeds" if spans == {True} else "over test rows" if spans else ""}


def _arm_row(name: str, infos: Sequence[RunInfo]) -> dict[str, Any]:
    from softprompt_core.experiments import mean_interval

    results = [info.result for info in infos if info.status == "done" and info.result.get("eval_accuracy") is not None]
    values = [result["eval_accuracy"] for result in results]
    low, high = mean_interval(values)
    if len(results) == 1:
        low, high = results[0].get("eval_accuracy_low"), results[0].get("eval_accuracy_high")
    mean = float(np.mean(values)) if values else None
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (low, high))
    between = "" if low is None or high is None else f" ({100 * low:.1f}–{100 * high:.1f})"
    seconds = [result["seconds"] for result in results if result.get("seconds") is not None]
    losses = [result["eval_loss"] for result in results if result.get("eval_loss") is not None]
    sizes = [result["trainable_parameters"] for result in results if result.get("trainable_parameters") is not None]
    cells = [
        percent(mean) + between, f"{np.mean(losses):.3f}" if losses else "–", f"{max(sizes):,}" if sizes else "–",
        f"{np.mean(seconds):.0f}" if seconds else "–",
        str(len(results)) if len(results) == len(infos) else f"{len(results)} of {len(infos)}",
    ]
    return {
        "name": name, "is_arm": True, "mean": number(mean), "low": number(low), "high": number(high), "cells": cells,
        "dots": [[info.config.get("seed"), number(info.result["eval_accuracy"])] for info in infos
                 if info.result in results],
    }


def loss_text(figures: Mapping[str, Any]) -> str:
    loss = figures.get("loss")
    return "–" if loss is None else f"{loss:.3f}"


def method_of(info: RunInfo) -> Any:
    """The method of a run; runs made before there was a choice are soft prompts."""
    return info.config.get("method", "prompt")


def arm_names(infos: Sequence[RunInfo]) -> list[str]:
    """What each run's arm is called: its initialisation; where methods are compared, its method.

    Settings that the arms share are left out of their names.
    """
    kinds = [(method_of(info), str(info.config.get("init")).replace("_", " ")) for info in infos]
    methods = {method for method, _ in kinds}
    inits = {method: {init for other, init in kinds if other == method} for method in methods}
    names = []
    for method, init in kinds:
        title = METHOD_NAMES.get(method, method)
        if len(methods) == 1 and (method == "prompt" or len(inits[method]) > 1):
            title = init
        elif len(inits[method]) > 1:
            title = f"{title} · {init}"
        names.append(title)
    return names


# ---------------------------------------------------------------------- JSON


def short(text: str) -> str:
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def number(value: Any) -> float | None:
    """Rounded to four digits; None for what is missing or not finite."""
    if value is None or not np.isfinite(value):
        return None
    return float(f"{float(value):.4g}")


def rounded(values: Any) -> list[float | None]:
    return [number(value) for value in np.asarray(values, dtype=np.float64).ravel()]


def compact(value: Any) -> str:
    """JSON without spaces; non-ASCII stays as it is, lone surrogates become question marks."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace").decode("utf-8")
