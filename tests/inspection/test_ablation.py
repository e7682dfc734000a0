import numpy as np
import pytest

from softprompt_core.inspection.ablation import ablate, cumulative, order_sensitivity


def test_a_hidden_tokens_ablation_by_mask_is_nothing(studied):
    part = studied.effect.part(range(30))
    visible = np.ones(8, bool)
    visible[2] = False
    found = ablate(part, studied.prompt, visible=visible, only=[2])
    assert {a.way: abs(a.delta) <= 1e-5 for a in found}["mask"]
    assert {a.way: abs(a.delta) <= 1e-5 for a in found}["mean"]


def test_the_only_token_that_does_anything_comes_first_under_every_ablation(studied):
    part = studied.effect.part(range(40))
    visible = np.zeros(8, bool)
    visible[5] = True       # all others are hidden, so only this one can matter
    found = ablate(part, studied.prompt, visible=visible)
    for way in ("mask", "mean"):
        deltas = {a.index: abs(a.delta) for a in found if a.way == way}
        assert max(deltas, key=lambda i: deltas[i]) == 5
        assert all(delta <= 1e-5 for i, delta in deltas.items() if i != 5)


def test_every_token_is_left_out_in_three_ways_with_intervals(studied):
    found = ablate(studied.effect.part(range(20)), studied.prompt, only=[0, 7])
    assert [(a.index, a.way) for a in found] == [(i, w) for i in (0, 7) for w in ("mask", "deletion", "mean")]
    assert all(a.low <= a.delta <= a.high for a in found)


def test_the_cumulative_curve_runs_from_no_prompt_to_the_whole_one(studied):
    part = studied.effect.part(range(30))
    curve = cumulative(part, studied.prompt, ablate(part, studied.prompt))
    assert [c.kept for c in curve] == list(range(9))
    assert curve[0].loss == pytest.approx(part.of_nothing().loss, rel=1e-5)
    assert curve[-1].loss == pytest.approx(part.of(studied.prompt).loss, rel=1e-5)


def test_identical_tokens_have_no_order(studied):
    same = np.repeat(studied.prompt[:1], 8, axis=0)
    found = order_sensitivity(studied.effect.part(range(30)), same, shuffles=3)
    assert found.loss_of_accuracy == 0.0


def test_shuffles_come_from_the_seed(studied):
    part = studied.effect.part(range(40))
    first, again = (order_sensitivity(part, studied.prompt, shuffles=4, seed=1).shuffled for _ in range(2))
    assert first == again
