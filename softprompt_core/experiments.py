"""Comparisons: what several runs say together, with honest statistics and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from softprompt_core.records import RunInfo

SUMMARISED = ("accuracy", "loss")


def comparison_document(infos: Sequence[RunInfo]) -> dict[str, Any]:
    """One comparison as the CLI's `compare` document: its runs, a summary an initialisation, a verdict.

    Intervals are 95 % confidence intervals of the mean over seeds (Student's t); with one seed there is none.
    """
    runs = [run_document(info) | {"init": info.config["init"], "seed": info.config["seed"]} for info in infos]
    finished = [run for run in runs if run["status"] == "done" and run.get("eval_accuracy") is not None]
    inits = list(dict.fromkeys(run["init"] for run in runs))
    summary = [_summary(init, [run for run in finished if run["init"] == init]) for init in inits]
    return {
        "group_id": infos[0].group_id if infos else None,
        "runs": runs,
        "summary": summary,
        "verdict": verdict(finished, inits, unfinished=len(runs) - len(finished)),
    }


def run_document(info: RunInfo) -> dict[str, Any]:
    """One run as the CLI's `train` document."""
    return {"run_id": info.run_id, "status": info.status, "reason": info.reason, **info.result}


def _summary(init: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"init": init, "runs": len(runs)}
    for figure in SUMMARISED:
        values = [run[f"eval_{figure}"] for run in runs]
        low, high = mean_interval(values)
        entry[f"{figure}_mean"] = float(np.mean(values)) if values else None
        entry[f"{figure}_ci95_low"], entry[f"{figure}_ci95_high"] = low, high
    return entry


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of a mean over seeds (Student's t); (None, None) with fewer than two values."""
    if len(values) < 2:
        return None, None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def verdict(runs: Sequence[dict[str, Any]], inits: Sequence[str], *, unfinished: int = 0) -> str:
    """What the finished runs allow one to say of their test accuracy, in two or three sentences."""
    by_init = {init: {r["seed"]: r for r in runs if r["init"] == init} for init in inits}
    by_init = {init: found for init, found in by_init.items() if found}
    if len(by_init) < 2:
        return "Nothing to compare yet: at least two initialisations must have finished."
    means = {i: float(np.mean([r["eval_accuracy"] for r in found.values()])) for i, found in by_init.items()}
    ranked = sorted(means, key=lambda init: -means[init])
    best, second = ranked[0], ranked[1]
    listed = ", ".join(f"{init} {means[init]:.1%}" for init in ranked)
    shared = sorted(set(by_init[best]) & set(by_init[second]))
    sentences = [f"Mean test accuracy: {listed}."]
    if len(shared) < 2:
        sentences.append(_one_seed(by_init[best], by_init[second], best, second))
    else:
        differences = [by_init[best][s]["eval_accuracy"] - by_init[second][s]["eval_accuracy"] for s in shared]
        rows = min((by_init[best][s].get("test_rows") or 0 for s in shared), default=0)
        sentences.append(_over_seeds(differences, best, second, rows=rows))
    if unfinished:
        sentences.append(f"{unfinished} of the runs did not finish and are not counted.")
    return " ".join(sentences)


def _over_seeds(differences: Sequence[float], best: str, second: str, *, rows: int) -> str:
    """The verdict on paired differences of accuracies over `rows` test rows (0: not known).

    Accuracies move in steps of one row, so a few differences can be equal by chance: their spread counts as no
    less than what rounding two accuracies to whole rows gives (a variance of 1/12 of a squared step, each).
    """
    count, mean = len(differences), float(np.mean(differences))
    rounding = math.sqrt(2 / 12) / rows if rows else 0.0
    spread = max(float(np.std(differences, ddof=1)), rounding)
    half = float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    low, high = mean - half, mean + half
    between = f"{mean:+.1%} over {len(differences)} seeds (95 % interval {low:+.1%} to {high:+.1%})"
    if low > 0:
        return f"{best} is ahead of {second} by {between}."
    return f"{best} and {second} cannot be told apart: {between}. More seeds would narrow this."


def _one_seed(first: dict[int, Any], second: dict[int, Any], best: str, other: str) -> str:
    one, two = next(iter(first.values())), next(iter(second.values()))
    overlap = (one.get("eval_accuracy_low") or 0) <= (two.get("eval_accuracy_high") or 1)
    caution = "One seed says nothing about chance between runs; three or more are needed."
    if overlap:
        return f"Between {best} and {other} the intervals over test rows overlap. {caution}"
    return f"{best} is ahead of {other} beyond the spread of the test rows. {caution}"
