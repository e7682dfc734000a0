"""A run's title, result, words and log, from records to safe markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softprompt_core.config import TrainConfig
from softprompt_core.records import LogRecord, Neighbour, RunInfo, Status
from softprompt_core.ui import results

FIGURES = {
    "eval_accuracy": 0.683, "eval_accuracy_low": 0.612, "eval_accuracy_high": 0.741, "eval_macro_f1": 0.678,
    "eval_loss": 0.2191, "eval_perplexity": 1.245, "test_rows": 200, "steps": 300, "seconds": 39.2,
    "baselines": {
        "majority": {"accuracy": 0.5, "macro_f1": 0.333},
        "hand_written": {"text": "<i>Sort</i>", "accuracy": 0.51, "macro_f1": 0.4, "loss": 6.9, "perplexity": 1e6},
    },
}


def run(status: Status = "done", **changes: Any) -> RunInfo:
    values: dict[str, Any] = {
        "run_id": "r", "name": "<b>mine</b>", "status": status, "group_id": None, "created": 0.0, "updated": 0.0,
        "config": TrainConfig().model_dump(), "result": {}, "reason": "", "step": 3, "steps": 300,
    }
    return RunInfo(**(values | changes))


def test_result_stands_beside_its_baselines_with_its_interval() -> None:
    shown = results.result_html(run(result=FIGURES), folder=Path("/runs/r"))
    for part in ("68.3 %", "61.2 – 74.1 %", "0.678", "always the most frequent label", "50.0 %", "200 test rows"):
        assert part in shown
    assert "&lt;i&gt;Sort&lt;/i&gt;" in shown
    assert "no prompt at all" not in shown


def test_run_at_work_has_no_result_yet() -> None:
    assert results.result_html(run("running")) == ""
    assert results.result_html(None) == ""


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ("stopped", "Stopped by the user after step 3.", "best prompt so far is kept"),
        ("interrupted", "", "Resume goes on"),
        ("failed", "The loss was <nan>.", "The loss was &lt;nan&gt;."),
        ("failed", "", "log says why"),
    ],
)
def test_other_endings_say_why_and_what_next(status: Status, reason: str, words: str) -> None:
    assert words in results.result_html(run(status, reason=reason))


def test_names_are_escaped() -> None:
    assert "&lt;b&gt;mine&lt;/b&gt;" in results.title_html(run())


def test_words_tell_an_echo_from_a_new_word() -> None:
    old, new = Neighbour(1, "<a", 0.9), Neighbour(2, "b", 0.4)
    shown = results.words_html([old, new, None], [old, old, None], step=5, ended=False)
    assert shown.count("sp-echo") == 1
    assert "&lt;a" in shown
    assert "started as &lt;a" in shown
    assert "(no direction)" in shown
    assert "at step 5" in shown


def test_log_is_escaped_and_says_what_to_expect_when_empty() -> None:
    assert "[warning] 3 rows &lt;cut&gt;" in results.log_html([(0.0, LogRecord("r", "warning", "3 rows <cut>"))])
    assert "Nothing yet" in results.log_html([])


def test_warnings_of_a_run_are_shown_once_escaped_and_never_all_of_many() -> None:
    logs = [(0.0, LogRecord("r", level, text)) for level, text in (
        ("info", "data read"), ("warning", "layout <concatenated>"), ("warning", "layout <concatenated>"),
        ("error", "It diverged."),
    )]
    shown = results.warnings_html(run("failed", reason="It diverged."), logs)
    assert shown.count("<li>") == 1
    assert "layout &lt;concatenated&gt;" in shown
    assert results.warnings_html(run(), logs[:1]) == ""
    many = results.warnings_html(run(), [(0.0, LogRecord("r", "warning", f"no {i}")) for i in range(9)])
    assert many.count("<li>") == results.WARNINGS_SHOWN
    assert "6 more warnings are in the run log" in many


@pytest.mark.parametrize(
    ("method", "what", "row"),
    [("lora", "LoRA, rank 8", "LoRA in the model"), ("prefix", "prefix tuning, 20 virtual tokens", "this prefix"),
     ("full", "full fine-tuning", "the model fine-tuned"), ("prompt", "text, 20 virtual tokens", "this soft prompt")],
)
def test_other_methods_are_called_by_their_name(method: str, what: str, row: str) -> None:
    found = run(result=FIGURES, config=TrainConfig(method=method).model_dump())  # type: ignore[arg-type]
    assert what in results.title_html(found)
    assert row in results.result_html(found)
