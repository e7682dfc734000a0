"""Comparisons: intervals against scipy and textbook numbers, verdicts that never say more than the runs do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from softprompt_core.config import METHODS, TrainConfig
from softprompt_core.experiments import comparison_document, mean_interval, run_document, verdict
from softprompt_core.records import RunInfo


def info(
    init: str, seed: int, accuracy: float | None, *, status: str = "done", half: float = 0.02, method: str = "prompt"
) -> RunInfo:
    """A run as the store gives it."""
    result = {} if accuracy is None else {
        "eval_accuracy": accuracy, "eval_loss": 1 - accuracy, "eval_accuracy_low": accuracy - half,
        "eval_accuracy_high": accuracy + half, "trainable_parameters": 100,
        "baselines": {"majority": {"accuracy": 0.5}},
    }
    config = TrainConfig(init=init, seed=seed, method=method).model_dump()
    return RunInfo(f"{init}-{seed}", init, status, "group", 0.0, 0.0, config, result, "", 10, 10)


def document(*rows: tuple[str, list[float]]) -> dict:
    return comparison_document([info(init, seed, value) for init, values in rows for seed, value in enumerate(values)])


def test_interval_of_a_mean_equals_scipys():
    values = [0.61, 0.70, 0.66, 0.73]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


def test_interval_of_two_values_is_the_textbook_one():
    low, high = mean_interval([0.0, 1.0])
    assert high - 0.5 == pytest.approx(12.706 * 0.5, abs=1e-3)
    assert low == pytest.approx(1 - high)


@pytest.mark.parametrize("values", [[], [0.7]])
def test_one_value_has_no_interval(values):
    assert mean_interval(values) == (None, None)


def test_summary_has_an_entry_an_initialisation_in_the_order_given():
    found = document(("text", [0.8, 0.7]), ("random", [0.6, 0.5]))
    assert [(e["init"], e["runs"]) for e in found["summary"]] == [("text", 2), ("random", 2)]
    assert found["summary"][0]["accuracy_mean"] == pytest.approx(0.75)
    assert found["summary"][0]["loss_mean"] == pytest.approx(0.25)
    low, high = mean_interval([0.8, 0.7])
    assert (found["summary"][0]["accuracy_ci95_low"], found["summary"][0]["accuracy_ci95_high"]) == (low, high)


def test_runs_carry_init_and_seed_and_keep_their_own_figures():
    found = document(("text", [0.8, 0.7]), ("random", [0.6]))
    assert [(r["run_id"], r["init"], r["seed"], r["eval_accuracy"]) for r in found["runs"]] == [
        ("text-0", "text", 0, 0.8), ("text-1", "text", 1, 0.7), ("random-0", "random", 0, 0.6),
    ]


def test_clear_difference_over_seeds_is_said_with_its_interval():
    text = document(("random", [0.50, 0.52, 0.51]), ("text", [0.80, 0.83, 0.82]))["verdict"]
    assert "text is ahead of random by" in text
    assert "3 seeds" in text
    assert "95 % interval" in text


def test_difference_within_the_spread_is_not_called_one():
    text = document(("random", [0.6, 0.8, 0.7]), ("text", [0.8, 0.6, 0.75]))["verdict"]
    assert "cannot be told apart" in text
    assert "ahead" not in text


def test_pairing_by_seed_sees_a_difference_that_the_spread_over_seeds_hides():
    text = document(("random", [0.50, 0.70, 0.90]), ("text", [0.54, 0.74, 0.95]))["verdict"]
    assert "text is ahead of random" in text


def test_one_seed_is_never_taken_for_proof():
    far, near = document(("random", [0.5]), ("text", [0.9]))["verdict"], document(("random", [0.7]), ("text", [0.71]))
    assert "One seed says nothing" in far
    assert "overlap" in near["verdict"]
    assert "ahead" not in near["verdict"]


def test_equal_runs_of_one_kind_are_nothing_to_compare():
    assert "Nothing to compare" in document(("text", [0.5, 0.6]))["verdict"]


def test_runs_that_did_not_finish_are_named_and_not_counted():
    infos = [info("text", 0, 0.8), info("text", 1, 0.9), info("random", 0, 0.5), info("random", 1, 0.55)]
    infos += [info("text", 2, None, status="failed"), info("random", 2, 0.1, status="stopped")]
    found = comparison_document(infos)
    assert [e["runs"] for e in found["summary"]] == [2, 2]
    assert "2 of the runs did not finish" in found["verdict"]


def test_comparison_of_which_nothing_finished_has_null_figures():
    found = comparison_document([info("text", 0, None, status="failed"), info("random", 0, None, status="failed")])
    assert {e["accuracy_mean"] for e in found["summary"]} == {None}
    assert "Nothing to compare yet" in found["verdict"]


def test_verdict_without_intervals_of_rows_does_not_claim_a_difference():
    runs = [{"init": i, "seed": 0, "eval_accuracy": a} for i, a in (("text", 0.9), ("random", 0.5))]
    assert "overlap" in verdict(runs, ["text", "random"])


def test_run_document_says_why_a_run_failed():
    failed = info("text", 0, None, status="failed")
    assert run_document(failed) == {"run_id": "text-0", "status": "failed", "reason": ""}


def test_a_row_more_in_two_seeds_alike_is_not_called_a_difference():
    def runs(gain):
        return [
            {"init": i, "seed": s, "eval_accuracy": 0.8 + gain * (i == "text"), "test_rows": 200}
            for i in ("text", "random") for s in (0, 1)
        ]

    assert "cannot be told apart" in verdict(runs(0.005), ["text", "random"])
    assert "text is ahead" in verdict(runs(0.1), ["text", "random"])


# ------------------------------------------------------------------ methods


def across_methods() -> list[RunInfo]:
    return [
        info(init, seed, accuracy + seed / 100, method=method)
        for method, init, accuracy in (("prompt", "text", 0.7), ("prompt", "random", 0.6), ("lora", "text", 0.8))
        for seed in (0, 1, 2)
    ]


def test_arms_are_initialisations_of_prompts_and_other_methods():
    found = comparison_document(across_methods())
    said = [(e["arm"], e["method"], e["init"], e["runs"], e["trainable_parameters"]) for e in found["summary"]]
    assert said == [
        ("text", "prompt", "text", 3, 100), ("random", "prompt", "random", 3, 100), ("LoRA", "lora", None, 3, 100),
    ]
    assert [(r["method"], r["init"]) for r in found["runs"][::3]] == [
        ("prompt", "text"), ("prompt", "random"), ("lora", None),
    ]
    means = "Mean test accuracy: LoRA 81.0%, text 71.0%, random 61.0%."
    assert found["verdict"].startswith(f"{means} LoRA is ahead of text")


def test_every_method_has_a_name_for_the_verdict():
    infos = [info("text", 0, 0.7 + i / 100, method=method) for i, method in enumerate(METHODS)]
    text = comparison_document(infos)["verdict"]
    for name in ("text", "LoRA", "full fine-tuning", "prefix tuning", "p-tuning"):
        assert name in text


def test_baselines_of_a_finished_run_stand_beside_the_summary():
    assert comparison_document(across_methods())["baselines"] == {"majority": {"accuracy": 0.5}}
    assert comparison_document([info("text", 0, None, status="failed")])["baselines"] is None


# ------------------------------------------------------------ unequal seeds


def with_seeds(**accuracies: dict[int, float]) -> str:
    return comparison_document([info(a, s, v) for a, found in accuracies.items() for s, v in found.items()])["verdict"]


def test_arms_with_other_seeds_are_compared_on_those_that_both_have():
    text = with_seeds(text={0: 0.80, 1: 0.82, 2: 0.81}, random={0: 0.50, 1: 0.53})
    assert "text 81.0% (3 seeds), random 51.5% (2 seeds)" in text
    assert "not the same seeds; only the 2 that both have are compared" in text
    assert "over 2 seeds" in text


def test_a_mean_that_leads_by_seeds_the_other_lacks_is_not_called_ahead():
    text = with_seeds(text={0: 0.60, 1: 0.62, 2: 0.99}, random={0: 0.70, 1: 0.72})
    assert "text 73.7% (3 seeds), random 71.0% (2 seeds)" in text
    assert "random is ahead of text" in text
    assert "text is ahead" not in text


def test_arms_without_common_seeds_are_not_compared():
    text = with_seeds(text={0: 0.80, 1: 0.82}, random={2: 0.50, 3: 0.53})
    assert "share 0 seeds, too few" in text
    assert "ahead" not in text


def test_arm_of_one_seed_is_held_against_the_same_seed_of_the_other():
    text = with_seeds(text={0: 0.60, 1: 0.95}, random={0: 0.59})
    assert "overlap" in text
    assert "One seed says nothing" in text
