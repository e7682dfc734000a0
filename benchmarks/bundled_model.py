# ruff: noqa: E402  (the environment must be prepared before torch is imported)
"""How good the bundled model is: every goal that was set for it, an older model beside it.

    python benchmarks/bundled_model.py --data-root DIR [--model DIR] [--old DIR] [--held-out WORK] [--json FILE]

DIR holds the public tasks sst2, trec and tweet_emotion, each a folder with train.csv and test.csv (text, label).
WORK is the working folder of tools/pretrain/train.py, for its held-out text; left out, those rows stay empty.
Every prompt starts from the program's own words for the task. The file is written after each measurement, and a
second call goes on where the first one ended; a model whose weights have changed is measured anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt_core.environment import prepare_environment

prepare_environment()

import numpy as np
import torch
from safetensors.numpy import load_file

from softprompt_core.config import parse_config
from softprompt_core.inspection.neighbours import nearest_words
from softprompt_core.inspection.vocabulary import vocabulary_of
from softprompt_core.models import BaseModel, load_model, locate
from softprompt_core.records import EndRecord
from softprompt_core.training import train

RELATIONS = Path(__file__).with_name("word_relations.json")
SOURCES = ("novels", "dialogues", "wiki", "tasks", "verbalised", "unseen")
COMPARED_SOURCES = SOURCES[:4]
WINDOW, WINDOWS, NEAREST = 256, 128, 5
BUNDLED_STEPS, PUBLIC_STEPS = 300, 600
ACCURACY_GOALS = {
    "complaints": 0.85, "emotions": 0.70, "questions": 0.85, "sst2": 0.72, "trec": 0.75, "tweet_emotion": 0.60,
}
BUNDLED = ("complaints", "emotions", "questions")
NEIGHBOUR_GOAL, ABOVE_MAJORITY_GOAL = 0.85, 3

Figures = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One measurement: its key in the file, and how to make it."""

    key: str
    measure: Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of the table; `is_met` is None where nothing was measured."""

    measure: str
    goal: str
    old: str
    new: str
    is_met: bool | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="left out, the public tasks stay unmeasured")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--old", help="folder of the model to compare with")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--old-seeds", type=int, help="fewer seeds for the older model")
    parser.add_argument("--tasks", nargs="*", default=list(ACCURACY_GOALS), choices=list(ACCURACY_GOALS))
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = read_result(options.json)
    asked = {"new": (options.model, options.seeds)}
    if options.old:
        asked["old"] = (options.old, options.old_seeds or options.seeds)
    for name, (model, seeds) in asked.items():
        found = result.setdefault(name, {})
        if found.get("weights") != fingerprint(model):
            result[name] = found = {"weights": fingerprint(model)}
        for item in items(model, seeds, options.tasks, data_root=options.data_root, held_out=options.held_out):
            if item.key not in found:
                found[item.key] = item.measure()
                print(f"{name} {item.key}: {shown(found[item.key])}", file=sys.stderr, flush=True)
                write_result(result, options.json)
    print(table(result))


def items(
    model: str, seeds: int, tasks: list[str], *, data_root: Path | None, held_out: Path | None
) -> Iterator[Item]:
    """Everything to measure of a model, the cheap first."""
    base = load_model(model, device="cpu", dtype="fp32")
    yield Item("neighbours", lambda: related_share(base))
    if held_out is None:
        print("held-out loss is skipped: --held-out names no working folder", file=sys.stderr)
    else:
        for source in SOURCES:
            path = held_out / f"{source}.held_out.tokens"
            if path.exists() and has_tokenizer_of(base, held_out):
                yield Item(f"held-out {source}", lambda path=path: held_out_loss(base, path))
            else:
                print(f"held-out {source} is skipped: {held_out} has no such stream in its words", file=sys.stderr)
    for task in tasks:
        if task in BUNDLED:
            for init in ("text", "random"):
                for seed in range(seeds if init == "random" else 1):
                    settings = run_settings(model, task, task, seed=seed) | {"init": init}
                    yield Item(f"start {task} {init} {seed}", lambda settings=settings: loss_at_start(settings))
    for seed in range(seeds):
        for task in tasks:
            data = task if task in BUNDLED else str(data_root / task) if data_root else None
            if data is None or (task not in BUNDLED and not Path(data).is_dir()):
                print(f"{task} is skipped: --data-root has no folder of that name", file=sys.stderr)
                continue
            settings = run_settings(model, task, data, seed=seed)
            yield Item(f"task {task} {seed}", lambda settings=settings: trained(settings))


def run_settings(model: str, task: str, data: str, *, seed: int) -> dict[str, Any]:
    """The settings of a run; everything unnamed is the program's default."""
    return {
        "model": model, "data": data, "init": "text", "virtual_tokens": 20, "seed": seed, "device": "cpu",
        "dtype": "fp32", "steps": BUNDLED_STEPS if task in BUNDLED else PUBLIC_STEPS,
    }


def trained(settings: dict[str, Any]) -> Figures:
    """Test accuracy of a trained prompt, seconds of processor time, and what goes without training."""
    began = time.process_time()
    result = end_of(settings)
    baselines = result["baselines"]
    return {
        "accuracy": round(result["eval_accuracy"], 4), "loss": round(result["eval_loss"], 4),
        "low": round(result["eval_accuracy_low"], 4), "high": round(result["eval_accuracy_high"], 4),
        "processor_seconds": round(time.process_time() - began, 1), "steps": result["steps"],
        **{name: round(baselines[name]["accuracy"], 4) for name in ("majority", "hand_written", "no_prompt")},
    }


def loss_at_start(settings: dict[str, Any]) -> float:
    """Test loss of a prompt before training: one step at a rate that moves nothing."""
    return round(end_of(settings | {"steps": 1, "lr": 1e-12})["eval_loss"], 4)


def end_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The result document of a run."""
    for record in train({"run": parse_config(settings)}):
        if isinstance(record, EndRecord):
            assert record.status == "done", record.reason
            return record.result
    raise AssertionError("training ended without an end record")


def related_share(base: BaseModel) -> Figures:
    """The share of common words with a related word among the 5 nearest whole words, and those without."""
    relations = json.loads(RELATIONS.read_text(encoding="utf-8"))["relations"]
    vocabulary = vocabulary_of(base)
    without: dict[str, str] = {}
    for word, related in relations.items():
        spelled = [base.tokenizer(" " + w, add_special_tokens=False)["input_ids"] for w in (word, word.capitalize())]
        ids = next((found for found in spelled if len(found) == 1), None)
        if ids is None:
            without[word] = "not one token"
            continue
        found = nearest_words(vocabulary.table[ids], vocabulary, top=NEAREST + 1, whole_words=True)[0]
        near = [n.token.strip(" ·▁Ġ␣") for n in found if n.id != ids[0]][:NEAREST]
        if not {n.casefold() for n in near} & set(related.split()):
            without[word] = " ".join(near)
    return {"share": round(1 - len(without) / len(relations), 4), "words": len(relations), "without": without}


def has_tokenizer_of(base: BaseModel, work: Path) -> bool:
    """Whether the streams in WORK are in the model's own words."""
    path = work / "tokenizer.json"
    if not path.exists():
        return False
    known = json.loads(path.read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in known["added_tokens"]}
    return known["model"]["vocab"] | added == base.tokenizer.get_vocab()


@torch.inference_mode()
def held_out_loss(base: BaseModel, path: Path) -> float:
    """Mean loss per token in nats, in fp32, over evenly spaced windows of a token stream."""
    ids = load_file(path)["ids"].astype(np.int64)
    starts = np.linspace(0, len(ids) - WINDOW - 1, WINDOWS).astype(int)
    losses = []
    for part in np.split(starts, WINDOWS // 8):
        batch = torch.from_numpy(np.stack([ids[first : first + WINDOW] for first in part]))
        logits = base.module(input_ids=batch, use_cache=False).logits[:, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item())
    return round(statistics.fmean(losses), 4)


def fingerprint(model: str) -> str:
    """The hash of a model's weights."""
    hashed = hashlib.sha256()
    for path in sorted(Path(locate(model)).glob("*.safetensors")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:16]


def read_result(path: Path | None) -> dict[str, Any]:
    """What an earlier call has measured, or a new document."""
    if path and path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {
        "date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads(),
    }


def write_result(result: dict[str, Any], path: Path | None) -> None:
    """Write the document aside and rename it, so that an interrupted call loses nothing."""
    if path:
        aside = path.with_suffix(".partial")
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        aside.rename(path)


# ------------------------------------------------------------------- table


def table(result: dict[str, Any]) -> str:
    """The goals as a Markdown table, the old model beside the new."""
    lines = ["| measure | goal | old | new | |", "|---|---|---|---|---|"]
    words = {None: "", True: "met", False: "missed"}
    lines += [f"| {r.measure} | {r.goal} | {r.old} | {r.new} | {words[r.is_met]} |" for r in rows(result)]
    return "\n".join(lines)


def rows(result: dict[str, Any]) -> Iterator[Row]:
    """Every goal with what was measured of it."""
    old, new = result.get("old", {}), result.get("new", {})
    for source in SOURCES:
        key = f"held-out {source}"
        a, b = old.get(key), new.get(key)
        is_met = b < a if a is not None and b is not None and source in COMPARED_SOURCES else None
        goal = "lower" if source in COMPARED_SOURCES else "–"
        yield Row(f"held-out loss per token, {source}", goal, number(a), number(b), is_met)
    shares = [model.get("neighbours", {}).get("share") for model in (old, new)]
    is_met = None if shares[1] is None else shares[1] >= NEIGHBOUR_GOAL
    yield Row("words with a related one among 5 nearest", percent(NEIGHBOUR_GOAL, 0), *map(percent, shares), is_met)
    for task, goal in ACCURACY_GOALS.items():
        mean = mean_accuracy(new, task)
        is_met = None if mean is None else mean >= goal
        steps = BUNDLED_STEPS if task in BUNDLED else PUBLIC_STEPS
        measure = f"{task}, {steps} steps, mean of seeds"
        yield Row(measure, percent(goal, 0), accuracies(old, task), accuracies(new, task), is_met)
    above = [above_majority(model) for model in (old, new)]
    is_met = None if above[1] is None else above[1][0] >= ABOVE_MAJORITY_GOAL
    shown_above = ["–" if a is None else f"{a[0]} of {a[1]}" for a in above]
    yield Row("untrained hand-written prompt above majority", "3 of 6", *shown_above, is_met)
    for task in BUNDLED:
        starts = [start_losses(model, task) for model in (old, new)]
        is_met = None if starts[1] is None else starts[1][0] < starts[1][1]
        both = ["–" if s is None else f"{s[0]:.2f} / {s[1]:.2f}" for s in starts]
        yield Row(f"{task}, loss at step 0, text / random", "text lower", *both, is_met)


def runs_of(model: dict[str, Any], task: str) -> list[Figures]:
    """The trained runs of a task, by seed."""
    return [value for key, value in model.items() if key.startswith(f"task {task} ")]


def mean_accuracy(model: dict[str, Any], task: str) -> float | None:
    """Mean test accuracy over the seeds, None where none was trained."""
    found = [run["accuracy"] for run in runs_of(model, task)]
    return statistics.fmean(found) if found else None


def accuracies(model: dict[str, Any], task: str) -> str:
    """Mean accuracy, each seed's, and the untrained words' and the majority's beside them."""
    found = runs_of(model, task)
    if not found:
        return "–"
    each = ", ".join(f"{100 * run['accuracy']:.1f}" for run in found)
    untrained = f"untrained {percent(found[0]['hand_written'])}, majority {percent(found[0]['majority'])}"
    return f"{percent(mean_accuracy(model, task))} ({each}; {untrained})"


def above_majority(model: dict[str, Any]) -> tuple[int, int] | None:
    """(tasks whose hand-written prompt is above the majority class, tasks measured)."""
    found = [runs[0] for task in ACCURACY_GOALS if (runs := runs_of(model, task))]
    return (sum(run["hand_written"] > run["majority"] for run in found), len(found)) if found else None


def start_losses(model: dict[str, Any], task: str) -> tuple[float, float] | None:
    """(text, random) test loss before training; random is the mean of its seeds."""
    found = {
        init: [value for key, value in model.items() if key.startswith(f"start {task} {init} ")]
        for init in ("text", "random")
    }
    if not all(found.values()):
        return None
    return statistics.fmean(found["text"]), statistics.fmean(found["random"])


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def shown(value: Any) -> str:
    return json.dumps({k: v for k, v in value.items() if k != "without"} if isinstance(value, dict) else value)


if __name__ == "__main__":
    main()
