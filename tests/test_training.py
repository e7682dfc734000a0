from __future__ import annotations

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from softprompt_core import beginnings, evaluation, layouts, operations, training
from softprompt_core.config import TrainConfig
from softprompt_core.control import Control
from softprompt_core.errors import UserError
from softprompt_core.evaluation import evaluate
from softprompt_core.models import BUNDLED_FOLDER, embedding_table, load_model
from softprompt_core.plans import plan
from softprompt_core.records import EndRecord, EvalRecord, LogRecord, Snapshot, StepRecord
from softprompt_core.self_check import choose_layout
from softprompt_core.store import Store
from softprompt_core.tokenising import Example
from softprompt_core.training import train

QUICK = {"steps": 6, "batch_size": 4, "virtual_tokens": 5, "eval_every": 3}


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    """60 rows that differ in one telling word, so that tests are quick."""
    path = tmp_path_factory.mktemp("rows") / "mail.csv"
    lines = [
        f"The parcel is late and broken {i},bad" if i % 2 else f"Thank you for the quick help {i},good"
        for i in range(60)
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def config(rows_file, **changes):
    return TrainConfig(data=rows_file, **{**QUICK, **changes})


def losses(records, run_id="a"):
    return [r.loss for r in records if isinstance(r, StepRecord) and r.run_id == run_id]


def ending(records, run_id="a"):
    return next(r for r in records if isinstance(r, EndRecord) and r.run_id == run_id)


def selected(records, run_id="a"):
    return next(r for r in records if isinstance(r, Snapshot) and r.kind == "selected" and r.run_id == run_id)


def place(records, record):
    return next(i for i, other in enumerate(records) if other is record)


def weight_hashes(base):
    return {
        name: hashlib.sha256(value.detach().float().numpy().tobytes()).hexdigest()
        for name, value in base.module.state_dict().items()
    }


def test_frozen_weights_are_unchanged_to_the_last_bit(rows_file):
    base = load_model("bundled")
    before = weight_hashes(base)
    list(train({"a": config(rows_file)}))
    assert weight_hashes(base) == before
    assert not any(p.requires_grad or p.grad is not None for p in base.module.parameters())


def test_same_seed_gives_the_same_losses_to_the_last_digit(rows_file):
    first, second = (list(train({"a": config(rows_file)})) for _ in range(2))
    assert losses(first) == losses(second)
    assert np.array_equal(selected(first).prompt, selected(second).prompt)


def test_another_seed_gives_other_losses(rows_file):
    assert losses(list(train({"a": config(rows_file)}))) != losses(list(train({"a": config(rows_file, seed=1)})))


def test_runs_in_company_equal_their_solo_runs_to_the_last_digit(rows_file):
    arms = {
        "a": config(rows_file, init="text"), "b": config(rows_file, init="random", seed=3, lr=0.01),
        "c": config(rows_file, init="sampled_vocab", steps=4, batch_size=7),
    }
    together = list(train(arms))
    for run_id, arm in arms.items():
        alone = list(train({run_id: arm}))
        assert losses(together, run_id) == losses(alone, run_id)
        assert np.array_equal(selected(together, run_id).prompt, selected(alone, run_id).prompt)
        assert len(losses(together, run_id)) == arm.steps


def test_runs_in_one_model_pass_equal_their_solo_runs(rows_file, monkeypatch):
    arms = {
        "a": config(rows_file, init="text"), "b": config(rows_file, init="random", seed=3, lr=0.01),
        "c": config(rows_file, init="sampled_vocab", steps=4, batch_size=7),
    }
    alone = {run_id: list(train({run_id: arm})) for run_id, arm in arms.items()}
    monkeypatch.setattr(training, "_model_passes", lambda base, active: [list(active)])     # as on a GPU
    together = list(train(arms))
    for run_id in arms:
        assert losses(together, run_id) == pytest.approx(losses(alone[run_id], run_id), rel=1e-5)
        found, expected = selected(together, run_id).prompt, selected(alone[run_id], run_id).prompt
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_training_lowers_the_loss_and_learns_the_telling_word(rows_file):
    records = list(train({"a": config(rows_file, steps=60, batch_size=8, eval_every=20)}))
    assert np.mean(losses(records)[-5:]) < 0.2 * losses(records)[0]
    assert ending(records).result["eval_accuracy"] == 1.0


def test_records_come_in_the_promised_order(rows_file):
    records = list(train({"a": config(rows_file)}))
    kinds = [type(r).__name__ for r in records]
    assert kinds.index("StartRecord") < kinds.index("StepRecord")
    assert isinstance(records[-1], EndRecord)
    snapshots = [r.step for r in records if isinstance(r, Snapshot) and r.kind == "trajectory"]
    assert snapshots == sorted(snapshots)
    assert (snapshots[0], snapshots[-1]) == (0, 6)
    assert [r.step for r in records if isinstance(r, EvalRecord) and r.split == "validation"] == [3, 6]
    assert [r.step for r in records if isinstance(r, StepRecord)] == [1, 2, 3, 4, 5, 6]


def test_result_figures_are_those_of_the_selected_prompt(rows_file):
    from softprompt_core.data import load_task
    from softprompt_core.tokenising import tokenise

    settings = config(rows_file)
    records = list(train({"a": settings}))
    base = load_model("bundled")
    tokens = tokenise(load_task(settings), base.tokenizer, settings, context=base.context)
    found = evaluate(
        base, torch.from_numpy(selected(records).prompt), tokens.splits["test"], tokens.label_ids, layout="concatenated"
    )
    result = ending(records).result
    assert result["eval_loss"] == pytest.approx(found.loss, rel=1e-5)
    assert result["eval_accuracy"] == found.accuracy
    assert result["eval_perplexity"] == pytest.approx(math.exp(found.loss), rel=1e-5)


def test_selected_prompt_is_the_one_with_the_lowest_validation_loss(rows_file):
    records = list(train({"a": config(rows_file, steps=12, eval_every=2, lr=0.5)}))
    looks = {r.step: r.loss for r in records if isinstance(r, EvalRecord) and r.split == "validation"}
    assert selected(records).step == min(looks, key=looks.get)


def test_stop_ends_within_one_step_and_keeps_the_best_prompt(rows_file):
    control = Control()
    records = []
    for record in train({"a": config(rows_file, steps=500)}, control=control):
        records.append(record)
        if isinstance(record, StepRecord) and record.step == 7:
            control.stop("a")
    assert len(losses(records)) == 7
    assert ending(records).status == "stopped"
    assert selected(records).prompt.shape == (5, 256)
    assert ending(records).result["eval_accuracy"] is None


def test_stopping_one_run_leaves_the_others_as_they_would_have_been(rows_file):
    control = Control()
    together = []
    arms = {"a": config(rows_file), "b": config(rows_file, init="random")}
    for record in train(arms, control=control):
        together.append(record)
        if isinstance(record, StepRecord) and record.run_id == "a" and record.step == 2:
            control.stop("a")
    alone = list(train({"b": arms["b"]}))
    assert losses(together, "b") == pytest.approx(losses(alone, "b"), rel=1e-5)
    assert ending(together, "a").status == "stopped"
    assert ending(together, "b").status == "done"


def test_a_loss_that_is_no_number_fails_the_run_with_advice(rows_file, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(BUNDLED_FOLDER, folder)
    weights = load_file_as_float(folder / "model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    records = list(train({"a": config(rows_file, model=str(folder))}))
    assert ending(records).status == "failed"
    assert "learning rate below 0.03" in ending(records).reason
    assert len(losses(records)) == 1


def load_file_as_float(path):
    from safetensors.torch import load_file as load_torch

    return {key: value.float().numpy().copy() for key, value in load_torch(path).items()}


def test_gradient_clip_bounds_the_step_of_each_prompt_alone(rows_file):
    records = list(train({"a": config(rows_file), "b": config(rows_file, init="peft_random")}))
    norms = {r.run_id: r.gradient_norm for r in records if isinstance(r, StepRecord) and r.step == 1}
    solo = [r for r in train({"a": config(rows_file)}) if isinstance(r, StepRecord)]
    assert norms["a"] == pytest.approx(solo[0].gradient_norm, rel=1e-4)


def test_runs_that_differ_in_shared_settings_are_refused():
    arms = {"a": TrainConfig(virtual_tokens=5), "b": TrainConfig(virtual_tokens=6)}
    with pytest.raises(UserError, match=r"must agree on .*virtual_tokens"):
        list(train(arms))


def test_text_start_is_the_rows_of_the_text_and_repeats_are_logged(rows_file):
    records = list(train({"a": config(rows_file, init_text="Good or bad?", virtual_tokens=9, steps=1)}))
    base = load_model("bundled")
    ids = base.tokenizer.encode("Good or bad?", add_special_tokens=False)
    start = next(r for r in records if isinstance(r, Snapshot))
    expected = embedding_table(base)[[ids[i % len(ids)] for i in range(9)]]
    assert np.array_equal(start.prompt, expected.numpy())
    assert any("repeated to 9" in r.text for r in records if isinstance(r, LogRecord))


def test_baselines_stand_beside_the_result(rows_file):
    baselines = ending(list(train({"a": config(rows_file)}))).result["baselines"]
    assert baselines["majority"]["accuracy"] == 0.5
    assert baselines["hand_written"]["text"] == "Classify the text as bad or good:"
    assert baselines["no_prompt"]["loss"] > 0
    assert json.dumps(baselines)


def test_a_stopped_run_ends_at_once_while_the_others_go_on(rows_file):
    control, records = Control(), []
    arms = {"a": config(rows_file, steps=12), "b": config(rows_file, steps=12, init="random")}
    for record in train(arms, control=control):
        records.append(record)
        if isinstance(record, StepRecord) and record.step == 2:
            control.stop("a")
    end = place(records, ending(records, "a"))
    assert place(records, selected(records, "a")) < end
    assert next(r.step for r in records[end:] if isinstance(r, StepRecord)) == 3


def test_a_fault_does_not_cost_the_best_prompt(rows_file, monkeypatch):
    step, calls = training._step, []

    def failing(*args, **named):
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError
        return step(*args, **named)

    monkeypatch.setattr(training, "_step", failing)
    records = []
    with pytest.raises(MemoryError):
        records.extend(train({"a": config(rows_file)}))     # keeps what came before the fault
    assert selected(records).step == 3


def test_all_prompts_are_out_before_the_first_is_tested(rows_file):
    records = list(train({"a": config(rows_file), "b": config(rows_file, init="random")}))
    tests = [i for i, r in enumerate(records) if isinstance(r, EvalRecord) and r.split == "test"]
    assert max(place(records, selected(records, run_id)) for run_id in "ab") < min(tests)


def test_validation_rows_are_drawn_from_all_of_a_sorted_file():
    examples = [Example((1,), label) for label in (0, 1) for _ in range(600)]
    drawn = training._validation_rows(examples, seed=0)
    assert len(drawn) == beginnings.VALIDATION_ROWS
    assert 200 < sum(e.label for e in drawn) < 300
    assert drawn == training._validation_rows(examples, seed=0)


def test_layout_is_checked_with_rows_and_labels_side_by_side_even_for_batches_of_one(rows_file, monkeypatch):
    seen = []

    def watch(base, prompts, batches, **named):
        seen.append(batches[0])
        return choose_layout(base, prompts, batches, **named)

    monkeypatch.setattr(beginnings, "choose_layout", watch)
    list(train({"a": config(rows_file, batch_size=1, steps=1)}))
    assert len(seen[0]) == 2
    assert {len(row.continuations) for row in seen[0]} == {2}


def test_a_run_in_pefts_layout_is_looked_at_tested_and_used_as_it_was_trained(rows_file, tmp_path, monkeypatch):
    store, widths = Store(tmp_path / "runs"), set()
    run_id = store.create(config(rows_file, peft_positions=True, max_tokens=4_096))
    room = load_model("bundled").context - 5

    def noted(*arguments, layout, padded_to=None, **named):
        widths.add((layout, padded_to))
        return plan(*arguments, layout=layout, padded_to=padded_to, **named)

    for module in (layouts, evaluation):
        monkeypatch.setattr(module, "plan", noted)
    records = list(train({run_id: store.config(run_id)}))
    store.append(records)
    # not past what the model can read
    assert {(layout, width) for layout, width in widths if layout == "peft"} == {("peft", room)}
    assert ending(records, run_id).result["layout"] == "peft"
    tested = operations.evaluate_run(store, run_id)["loss"]
    assert tested == pytest.approx(ending(records, run_id).result["eval_loss"], rel=1e-5)
    texts = [{"text": text} for text in ("The parcel is late", "Thank you so much for all the quick help with it")]
    alone = [operations.predict_with_run(store, run_id, [row])[0]["scores"] for row in texts]
    for found, expected in zip(operations.predict_with_run(store, run_id, texts), alone, strict=True):
        assert found["scores"] == pytest.approx(expected, rel=1e-4)     # the others do not decide how far it is padded


def test_rows_that_stand_in_train_too_are_warned_of(tmp_path):
    rows = "".join(f"parcel {i} came late,bad\nparcel {i} came early,good\n" for i in range(20))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    (tmp_path / "test.csv").write_text("text,label\nparcel 3 came late,bad\nparcel 99 came early,good\n")
    records = list(train({"a": config(str(tmp_path), steps=1)}))
    warnings = [r.text for r in records if isinstance(r, LogRecord) and r.level == "warning"]
    assert any(text.startswith("1 validation or test rows also stand in train") for text in warnings)


# ------------------------------------------------- steps in parts, and early ends


def distance(found, expected):
    return np.linalg.norm(found.prompt - expected.prompt) / np.linalg.norm(expected.prompt)


def test_four_batches_of_two_give_what_one_of_eight_gives(rows_file):
    whole = list(train({"a": config(rows_file, steps=8, batch_size=8, eval_every=8)}))
    parts = list(train({"a": config(rows_file, steps=8, batch_size=2, accumulation=4, eval_every=8)}))
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert distance(selected(parts), selected(whole)) <= 1e-5
    tokens = [sum(r.tokens for r in records if isinstance(r, StepRecord)) for records in (parts, whole)]
    assert tokens[0] >= tokens[1]       # every part has a prompt of its own


def test_runs_with_more_and_fewer_parts_share_a_model_pass(rows_file, monkeypatch):
    arms = {
        "a": config(rows_file, batch_size=3, accumulation=3), "b": config(rows_file, init="random", batch_size=4),
        "c": config(rows_file, init="sampled_vocab", batch_size=2, accumulation=2),
    }
    alone = {run_id: list(train({run_id: arm})) for run_id, arm in arms.items()}
    monkeypatch.setattr(training, "_model_passes", lambda base, active: [list(active)])     # as on a GPU
    together = list(train(arms))
    for run_id in arms:
        assert losses(together, run_id) == pytest.approx(losses(alone[run_id], run_id), rel=1e-5)
        assert distance(selected(together, run_id), selected(alone[run_id], run_id)) <= 1e-5


@pytest.mark.parametrize(("budget", "logits"), [(60, 2**27), (16_384, 40_000)])
def test_a_step_that_does_not_fit_goes_through_the_model_in_parts(rows_file, monkeypatch, budget, logits):
    settings = config(rows_file, batch_size=16, steps=4, eval_every=4)
    whole = list(train({"a": settings}))
    passes, compute = [], training.batch_losses

    def watch(*given, **named):
        found = compute(*given, **named)
        passes.append(found[1])
        return found

    monkeypatch.setattr(training, "PASS_TOKENS", budget)
    monkeypatch.setattr(training, "PASS_LOGITS", logits)
    monkeypatch.setattr(training, "batch_losses", watch)
    parts = list(train({"a": settings}))
    vocabulary = load_model("bundled").vocab_size
    assert len(passes) > 8
    assert all(lines.tokens <= budget and len(lines.target) * vocabulary <= logits for lines in passes)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert distance(selected(parts), selected(whole)) <= 1e-5


def test_gradient_checkpointing_changes_no_number(rows_file):
    usual, twice = (
        list(train({"a": config(rows_file, gradient_checkpointing=is_on)})) for is_on in (False, True)
    )
    assert losses(twice) == pytest.approx(losses(usual), rel=1e-5)
    assert distance(selected(twice), selected(usual)) <= 1e-5


def test_adafactor_learns_too(rows_file):
    records = list(train({"a": config(rows_file, optimizer="adafactor", lr=0.05, steps=40, eval_every=20)}))
    assert np.mean(losses(records)[-5:]) < 0.3 * losses(records)[0]


@pytest.fixture(scope="module")
def learned(rows_file):
    """A prompt [5, H] that does the task nearly without loss."""
    return selected(list(train({"a": config(rows_file, steps=40, batch_size=8, eval_every=20)}))).prompt


DIVERGING = {
    "init": "from_run", "init_run": "before", "lr": 100, "weight_decay": 0.02, "schedule": "constant", "warmup": 0,
}
"""Each step turns the prompt over (rate × decay = 2) and adds about ± 100 to every number of it."""


def test_a_run_that_diverges_ends_with_the_best_prompt_it_had(rows_file, learned):
    arms = {"a": config(rows_file, **{**DIVERGING, "steps": 100}, eval_every=20), "b": config(rows_file)}
    records = list(train(arms, starts={"a": learned}))
    looks = [r for r in records if isinstance(r, EvalRecord) and (r.run_id, r.split) == ("a", "validation")]
    best = min(looks, key=lambda r: r.loss).step
    reason = ending(records).reason
    assert ending(records).status == "failed"
    assert "over 5 times its start for 50 steps" in reason
    assert f"the prompt of step {best}, the best one before that, was kept" in reason
    assert "learning rate below 100" in reason
    assert selected(records).step == best
    assert np.isfinite(selected(records).prompt).all()
    assert ending(records, "b").status == "done"


class _Steep(torch.autograd.Function):
    """The same number with an infinite slope."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def test_an_infinite_gradient_fails_the_run_before_it_reaches_the_prompt(rows_file, monkeypatch):
    compute, calls = training.batch_losses, []

    def steep(*given, **named):
        found, lines = compute(*given, **named)
        calls.append(1)
        return (_Steep.apply(found) if len(calls) == 5 else found), lines

    monkeypatch.setattr(training, "batch_losses", steep)
    records = list(train({"a": config(rows_file)}))
    assert ending(records).status == "failed"
    assert "its gradient stopped being a number at step 5" in ending(records).reason
    assert selected(records).step == 3
    assert np.isfinite(selected(records).prompt).all()


def test_patience_ends_a_run_that_gets_no_better(rows_file, learned):
    settings = config(rows_file, **{**DIVERGING, "steps": 60}, eval_every=1, patience=3)
    records = list(train({"a": settings}, starts={"a": learned}))
    looks = {r.step: r.loss for r in records if isinstance(r, EvalRecord) and r.split == "validation"}
    best = min(looks, key=looks.get)
    assert ending(records).status == "done"
    assert len(losses(records)) == best + 3
    assert ending(records).reason == (
        f"Ended early after step {best + 3}: 3 evaluations without a better validation loss."
    )
    assert selected(records).step == ending(records).result["selected_step"] == best


def test_half_precision_trains_or_says_why_not(rows_file):
    records = list(train({"a": config(rows_file, dtype="fp16")}))
    end = ending(records)
    assert end.status == "done" or "stopped being a number" in end.reason
    assert np.isfinite(selected(records).prompt).all()
    assert selected(records).prompt.dtype == np.float32


def test_epochs_decide_the_steps(rows_file):
    records = list(train({"a": config(rows_file, epochs=0.5, batch_size=8, steps=900)}))
    (start,) = [r for r in records if type(r).__name__ == "StartRecord"]
    rows = start.facts["split_sizes"]["train"]
    assert len(losses(records)) == start.facts["steps"] == math.ceil(0.5 * math.ceil(rows / 8))
