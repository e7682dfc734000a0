import numpy as np
import pytest
import torch

from softprompt_core.errors import UserError
from softprompt_core.evaluation import evaluate
from softprompt_core.inspection.effect import Effect, Outcome, divergence
from softprompt_core.inspection.forward import forward, right_label_losses, showing_attention
from softprompt_core.models import embedding_table


def test_an_outcome_agrees_with_the_runs_own_evaluation(studied):
    effect = studied.effect
    expected = evaluate(
        effect.base, torch.from_numpy(studied.prompt), effect.examples, effect.tokens.label_ids, layout="concatenated"
    )
    found = effect.of(studied.prompt)
    assert found.accuracy == expected.accuracy
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_words_in_the_prompts_place_give_the_texts_own_logits(studied, ten_words):
    base = studied.effect.base
    text = list(studied.effect.examples[0].context)
    planted = embedding_table(base)[torch.tensor(ten_words)]
    with torch.no_grad():
        found = forward(base, planted, [text]).logits[0]
        expected = base.module(torch.tensor([ten_words + text])).logits[0]
    assert torch.allclose(found, expected, atol=1e-4)


def test_plain_rows_cost_what_scored_rows_cost(studied):
    found = right_label_losses(studied.effect, torch.from_numpy(studied.prompt))
    assert found == pytest.approx(studied.effect.of(studied.prompt).row_losses, rel=1e-4, abs=1e-4)


def test_a_hidden_token_changes_nothing_whatever_it_holds(studied):
    visible = [True] * 8
    visible[3] = False
    other = studied.prompt.copy()
    other[3] = 7.0
    found = [
        right_label_losses(studied.effect, torch.from_numpy(prompt), visible=visible)
        for prompt in (studied.prompt, other)
    ]
    assert np.abs(found[0] - found[1]).max() <= 1e-5


def test_the_attention_copy_shares_every_weight_and_leaves_the_model_as_it_was(studied):
    base = studied.effect.base
    before = base.module.config._attn_implementation
    twin = showing_attention(base)
    assert twin is showing_attention(base)
    assert base.module.config._attn_implementation == before
    own = {name: weight.data_ptr() for name, weight in base.module.named_parameters()}
    assert {name: weight.data_ptr() for name, weight in twin.named_parameters()} == own


def test_divergence_is_zero_for_the_same_and_grows_with_the_difference():
    def outcome(*rows):
        return Outcome(np.log(np.array(rows)), np.zeros(len(rows), int), np.array([2, 2]))

    even, leaning, sure = outcome([0.5, 0.5]), outcome([0.6, 0.4]), outcome([0.9, 0.1])
    assert divergence(even, even) == pytest.approx(0.0)
    assert divergence(leaning, even) == pytest.approx(0.5 * np.log(0.5 / 0.6) + 0.5 * np.log(0.5 / 0.4))
    assert divergence(sure, even) > divergence(leaning, even)


def test_too_few_rows_are_refused_in_one_sentence(studied):
    tokens = studied.effect.tokens
    few = type(tokens)(**{**tokens.__dict__, "splits": {**tokens.splits, "test": tokens.splits["test"][:5]}})
    with pytest.raises(UserError, match=r"5 test rows are too few"):
        Effect(studied.effect.base, few)
