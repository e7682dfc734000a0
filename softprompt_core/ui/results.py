"""A run as the page shows it: title, result, nearest words and log, as safe markup from plain records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt_core.config import METHOD_NAMES
from softprompt_core.records import LogRecord, Neighbour, RunInfo
from softprompt_core.ui.messages import as_html, notice

TRAINED = {
    "prompt": "this soft prompt", "prefix": "this prefix", "p_tuning": "this p-tuned prompt",
    "lora": "nothing; LoRA in the model", "full": "nothing; the model fine-tuned",
}
NO_TOKENS = {
    "prefix": "Prefix tuning learns keys and values for every layer instead of embeddings, so it has no virtual "
              "tokens and no words to read.",
    "lora": "LoRA changes the model’s weights by small matrices, so it has no virtual tokens and no words to read.",
    "full": "Full fine-tuning changes a copy of the whole model, so it has no virtual tokens and no words to read.",
}
"""Why a run of another method than soft prompts has no words."""
WARNINGS_SHOWN = 4
BASELINES = {
    "hand_written": "hand-written prompt, untrained",
    "few_shot": "examples with their labels, untrained",
    "no_prompt": "no prompt at all",
    "majority": "always the most frequent label",
}


def title_html(info: RunInfo | None) -> str:
    """The name and the main settings of the run on screen."""
    if info is None:
        return ""
    config = info.config
    data = Path(str(config.get("data"))).name
    facts = [
        f"{data} → {Path(str(config.get('model'))).name}",
        f"{_what(config)}, seed {config.get('seed')}",
        time.strftime("%d %b %Y %H:%M", time.localtime(info.created)),
    ]
    return (
        f'<div class="sp-run"><b>{as_html(info.name)}</b>'
        + "".join(f"<span>{as_html(fact)}</span>" for fact in facts) + "</div>"
    )


def result_html(info: RunInfo | None, *, folder: Path | None = None) -> str:
    """How the run ended: its test figures beside the baselines, or why there are none."""
    if info is None or info.status in ("queued", "running", "paused"):
        return ""
    result = info.result
    if result.get("eval_accuracy") is None:
        return _ending(info)
    rows = [_row(TRAINED.get(_method(info), "this run"), {
        "accuracy": result["eval_accuracy"], "macro_f1": result.get("eval_macro_f1"),
        "loss": result.get("eval_loss"), "perplexity": result.get("eval_perplexity"),
        "low": result.get("eval_accuracy_low"), "high": result.get("eval_accuracy_high"),
    }, best=True)]
    baselines = result.get("baselines") or {}
    rows += [_row(name, baselines[key]) for key, name in BASELINES.items() if baselines.get(key)]
    written = (baselines.get("hand_written") or {}).get("text")
    notes = [f"Hand-written prompt: “{written}”"] if written else []
    notes.append(_how(info))
    if folder is not None:
        notes.append(f"Saved in {folder}")
    return (
        '<section class="sp-result" aria-label="Result">'
        f'<h3>Result on {as_html(result.get("test_rows", "the"))} test rows</h3>'
        '<div class="sp-scroll"><table><thead><tr><th>what stands before the text</th><th>accuracy</th>'
        "<th>95 % interval</th><th>macro-F1</th><th>loss</th><th>perplexity</th></tr></thead>"
        f'<tbody>{"".join(rows)}</tbody></table></div>'
        + "".join(f"<p>{as_html(note)}</p>" for note in notes) + "</section>"
    )


def words_html(
    words: Sequence[Neighbour | None], before: Sequence[Neighbour | None], *, step: int, ended: bool
) -> str:
    """The nearest vocabulary word of each virtual token, and which word it had at the start.

    words, before: one entry a virtual token, None where it has no direction or the start is not known.
    """
    items = "".join(_word(i, *pair) for i, pair in enumerate(zip(words, before, strict=True)))
    when = f"of the kept prompt (step {step})" if ended else f"at step {step}"
    return (
        f'<p class="sp-caption"><b>Nearest words</b> {when}, by cosine. Dashed: still the word of the start. '
        "Nearness alone doesn’t make a word a meaning; Inspect says how far to trust it.</p>"
        f'<ol class="sp-words" aria-label="Nearest word of each virtual token">{items}</ol>'
    )


def warnings_html(info: RunInfo, logs: Sequence[tuple[float, LogRecord]]) -> str:
    """What a run warned of, for beside its curve; why it ended stands in its result and is not repeated."""
    found = dict.fromkeys(r.text for _, r in logs if r.level != "info" and r.text != info.reason)
    texts = list(found)
    if len(texts) > WARNINGS_SHOWN:
        texts = [*texts[:WARNINGS_SHOWN - 1], f"{len(texts) - WARNINGS_SHOWN + 1} more warnings are in the run log."]
    lines = "".join(f"<li>{as_html(text)}</li>" for text in texts)
    return f'<ul class="sp-warnings" aria-label="Warnings of the run">{lines}</ul>' if lines else ""


def log_html(logs: Sequence[tuple[float, LogRecord]]) -> str:
    """The log of a run, oldest first."""
    lines = [
        f'<span class="sp-t">{time.strftime("%H:%M:%S", time.localtime(when))}</span> '
        + ("" if record.level == "info" else f"[{as_html(record.level)}] ") + as_html(record.text)
        for when, record in logs
    ]
    return f'<pre class="sp-log" tabindex="0">{chr(10).join(lines)}</pre>' if lines else notice(
        "Nothing yet. What a run reads, keeps and warns of is listed here.", kind="hint"
    )


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _word(index: int, now: Neighbour | None, before: Neighbour | None) -> str:
    echo = now is not None and before is not None and now.id == before.id
    hint = f"virtual token {index + 1}"
    if before is not None:
        hint += ", still its start word" if echo else f", started as {before.token}"
    word, score = (now.token, f"{now.score:.2f}") if now else ("(no direction)", "")
    kind = "sp-echo" if echo else "sp-new"
    return (
        f'<li class="{kind}" title="{as_html(hint)}"><span class="sp-i">{index + 1}</span>'
        f'<span class="sp-w">{as_html(word)}</span><span class="sp-s">{score}</span></li>'
    )


def _row(name: str, figures: dict[str, Any], *, best: bool = False) -> str:
    accuracy, low, high = (figures.get(key) for key in ("accuracy", "low", "high"))
    bar = "" if accuracy is None else f'<i class="sp-bar"><i style="width:{100 * accuracy:.0f}%"></i></i>'
    cells = [
        name,
        percent(accuracy) + bar,
        "" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f} %",
        _figure(figures.get("macro_f1")),
        _figure(figures.get("loss")),
        _figure(figures.get("perplexity"), digits=2),
    ]
    kind = "sp-best" if best else "sp-base"
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _figure(value: float | None, *, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"


def _method(info: RunInfo) -> str:
    return str(info.config.get("method", "prompt"))


def _what(config: dict[str, Any]) -> str:
    """What a run trains, in a few words."""
    method, tokens = config.get("method", "prompt"), f"{config.get('virtual_tokens')} virtual tokens"
    if method == "prompt":
        return f"{str(config.get('init')).replace('_', ' ')}, {tokens}"
    name = METHOD_NAMES.get(method, method)
    return f"{name}, {tokens}" if method in ("prefix", "p_tuning") else (
        f"{name}, rank {config.get('lora_rank')}" if method == "lora" else name
    )


def _how(info: RunInfo) -> str:
    result = info.result
    parts = [f"{result.get('steps', info.step)} steps"]
    if result.get("seconds") is not None:
        parts.append(f"{result['seconds']:.0f} s")
    if result.get("trainable_parameters") is not None:
        parts.append(f"{result['trainable_parameters']:,} trained numbers")
    if result.get("selected_step") is not None:
        parts.append(f"the state of step {result['selected_step']} was best on validation and is kept")
    return ", ".join(parts)


def _ending(info: RunInfo) -> str:
    told = info.reason.strip()
    if info.status == "stopped":
        kept = " The best prompt so far is kept; the test rows were not looked at." if info.step else ""
        return notice((told or f"Stopped at step {info.step} of {info.steps}.") + kept, kind="hint")
    if info.status == "interrupted":
        told = told or "The program ended before the run did."
        return notice(f"{told} It reached step {info.step} of {info.steps}; Resume goes on from its last checkpoint.")
    if info.status == "done":
        return notice(told or "This run has no test figures.", kind="hint")
    return notice(told or "The run ended without a result. Its log says why.")
