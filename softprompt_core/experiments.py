"""Comparisons: what several runs say together, with honest statistics and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from softprompt_core.config import METHOD_NAMES
from softprompt_core.records import RunInfo

SUMMARISED = ("accuracy", "loss")


def comparison_document(infos: Sequence[RunInfo]) -> dict[str, Any]:
    """One comparison as the CLI's `compare` document: its runs, a summary an arm, baselines, a verdict.

    An arm is an initialisation of prompt tuning, or another method, which knows no initialisations (init is None).
    Intervals are 95 % confidence intervals of the mean over seeds (Student's t); with one seed there is none.
    Baselines are those of the first run that finished: all runs have the same rows.
    """
    runs = [{**run_document(info), **_arm_facts(info.config), "seed": info.config["seed"]} for info in infos]
    finished = [run for run in runs if run["status"] == "done" and run.get("eval_accuracy") is not None]
    arms = list(dict.fromkeys(map(arm_of, runs)))
    summary = [_summary(arm, [run for run in runs if arm_of(run) == arm], finished) for arm in arms]
    return {
        "group_id": infos[0].group_id if infos else None,
        "runs": runs,
        "summary": summary,
        "baselines": finished[0].get("baselines") if finished else None,
        "verdict": verdict(finished, arms, unfinished=len(runs) - len(finished)),
    }


def run_document(info: RunInfo) -> dict[str, Any]:
    """One run as the CLI's `train` document."""
    return {"run_id": info.run_id, "status": info.status, "reason": info.reason, **info.result}


def arm_of(run: Mapping[str, Any]) -> str:
    """What a run of a comparison stands for: its initialisation, or for other methods than prompts the method."""
    method = run.get("method", "prompt")
    return str(run["init"]) if method == "prompt" else METHOD_NAMES[method]


def _arm_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    method = config.get("method", "prompt")
    return {"method": method, "init": config["init"] if method == "prompt" else None}


def _summary(arm: str, runs: list[dict[str, Any]], finished: list[dict[str, Any]]) -> dict[str, Any]:
    counted = [run for run in finished if arm_of(run) == arm]
    entry: dict[str, Any] = {
        "arm": arm, "init": runs[0]["init"], "method": runs[0]["method"], "runs": len(counted),
        "trainable_parameters": counted[0].get("trainable_parameters") if counted else None,
    }
    for figure in SUMMARISED:
        values = [run[f"eval_{figure}"] for run in counted]
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


def verdict(runs: Sequence[dict[str, Any]], arms: Sequence[str], *, unfinished: int = 0) -> str:
    """What the finished runs allow one to say of their test accuracy, in a few sentences.

    The two arms with the highest means are compared seed by seed, because runs of one seed share the order of their
    rows. Where arms have not the same seeds, only those that both have count, and that is said: a mean over other
    seeds is no fair comparison.
    """
    by_arm = {arm: {r["seed"]: r for r in runs if arm_of(r) == arm} for arm in arms}
    by_arm = {arm: found for arm, found in by_arm.items() if found}
    if len(by_arm) < 2:
        return "Nothing to compare yet: at least two arms, initialisations or methods, must have finished."
    means = {arm: float(np.mean([r["eval_accuracy"] for r in found.values()])) for arm, found in by_arm.items()}
    ranked = sorted(means, key=lambda arm: -means[arm])
    has_equal_seeds = len({frozenset(found) for found in by_arm.values()}) == 1
    listed = ", ".join(
        f"{arm} {means[arm]:.1%}" + ("" if has_equal_seeds else f" ({_count(len(by_arm[arm]), 'seed')})")
        for arm in ranked
    )
    sentences = [f"Mean test accuracy: {listed}."]
    sentences += _between(by_arm, *ranked[:2])
    if unfinished:
        sentences.append(f"{unfinished} of the runs did not finish and are not counted.")
    return " ".join(sentences)


def _between(by_arm: Mapping[str, dict[int, Any]], best: str, second: str) -> list[str]:
    """What can be said of two arms; each seed → run."""
    shared = sorted(set(by_arm[best]) & set(by_arm[second]))
    if len(shared) < 2:
        if min(len(by_arm[best]), len(by_arm[second])) < 2:
            return [_one_seed(by_arm[best], by_arm[second], best, second)]
        what = f"{best} and {second} share {_count(len(shared), 'seed')}, too few to compare them"
        return [f"{what}. Train both with the same seeds."]
    differences = [by_arm[best][s]["eval_accuracy"] - by_arm[second][s]["eval_accuracy"] for s in shared]
    rows = min((by_arm[best][s].get("test_rows") or 0 for s in shared), default=0)
    said = []
    if set(by_arm[best]) != set(by_arm[second]):
        said.append(f"{best} and {second} have not the same seeds; only the {len(shared)} that both have are compared.")
    if np.mean(differences) < 0:        # the higher mean came from seeds that the other has not
        best, second, differences = second, best, [-difference for difference in differences]
    return [*said, _over_seeds(differences, best, second, rows=rows)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


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
    """The verdict where one of the arms has a single run: on a seed that both have, where there is one."""
    shared = sorted(set(first) & set(second))
    one, two = (runs[shared[0]] if shared else next(iter(runs.values())) for runs in (first, second))
    overlap = (one.get("eval_accuracy_low") or 0) <= (two.get("eval_accuracy_high") or 1)
    caution = "One seed says nothing about chance between runs; three or more are needed."
    if overlap:
        return f"Between {best} and {other} the intervals over test rows overlap. {caution}"
    return f"{best} is ahead of {other} beyond the spread of the test rows. {caution}"
