from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from softprompt_core.config import TrainConfig
from softprompt_core.data import load_task
from softprompt_core.evaluation import (
    Cancelled,
    accuracy_interval,
    evaluate,
    hard_prompt,
    label_scores,
    majority,
    perplexity,
)
from softprompt_core.models import load_model
from softprompt_core.tokenising import tokenise
from tests.tiny import WINDOW, tiny_model


@pytest.fixture(scope="module")
def base():
    return load_model("bundled")


@pytest.fixture(scope="module")
def tokens(base):
    config = TrainConfig()
    return tokenise(load_task(config), base.tokenizer, config, context=base.context)


def some_prompt(base, length=4):
    return torch.randn(length, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.1


def test_label_score_is_the_sum_of_log_p_over_its_tokens_and_eos(base, tokens):
    prompt, example = some_prompt(base), tokens.splits["test"][0]
    found = label_scores(base, prompt, [example.context], tokens.label_ids, layout="packed")[0]
    embed = base.module.get_input_embeddings()
    for label, ids in enumerate(tokens.label_ids):
        assert ids[-1] == base.tokenizer.eos_token_id
        with torch.no_grad():
            words = embed(torch.tensor([[*example.context, *ids]]))
            logits = base.module(inputs_embeds=torch.cat([prompt[None], words], dim=1)).logits[0]
        start = len(prompt) + len(example.context) - 1
        log_p = torch.log_softmax(logits[start:start + len(ids)].double(), dim=-1)
        assert found[label] == pytest.approx(log_p[range(len(ids)), list(ids)].sum().item(), rel=1e-5)


def test_scores_do_not_depend_on_order_company_or_layout(base, tokens):
    contexts = [e.context for e in tokens.splits["test"][:20]]
    packed = label_scores(base, some_prompt(base), contexts, tokens.label_ids, layout="packed")
    plain = label_scores(base, some_prompt(base), contexts[::-1], tokens.label_ids, layout="concatenated")[::-1]
    assert np.allclose(packed, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma3_text", "mistral"])
def test_a_prompt_longer_than_the_attention_window_is_not_scored_in_packed_rows(family):
    small = tiny_model(family)      # few-shot prompts may be so long where the trained prompt, and its layout, was not
    contexts, labels = [tuple(range(5, 13 + i)) for i in range(3)], [(20, 21, 0), (30, 0)]
    for length in (4, WINDOW + 6):
        packed, plain = (
            label_scores(small, some_prompt(small, length), contexts, labels, layout=layout)
            for layout in ("packed", "concatenated")
        )
        assert np.allclose(packed, plain, rtol=1e-5, atol=1e-4)


def test_figures_follow_from_the_scores(base, tokens):
    examples = tokens.splits["test"][:30]
    found = evaluate(base, some_prompt(base), examples, tokens.label_ids, layout="packed")
    scores = label_scores(
        base, some_prompt(base), [e.context for e in examples], tokens.label_ids, layout="packed"
    )
    right = [e.label for e in examples]
    count = sum(len(tokens.label_ids[label]) for label in right)
    assert found.loss == pytest.approx(-sum(scores[i, label] for i, label in enumerate(right)) / count)
    assert found.accuracy == np.mean(scores.argmax(1) == right)
    assert found.macro_f1 == pytest.approx(f1_score(right, scores.argmax(1), average="macro"))
    assert found.perplexity == pytest.approx(np.exp(found.loss))


def test_majority_is_the_most_frequent_label_of_the_training_rows(tokens):
    found = majority(tokens)
    share = np.mean([tokens.task.labels[e.label] == found["label"] for e in tokens.splits["test"]])
    assert found["accuracy"] == share


def test_interval_of_an_accuracy_is_wilsons():
    low, high = accuracy_interval(0.8, 200)
    assert (round(low, 4), round(high, 4)) == (0.7391, 0.8495)


def test_interval_stays_inside_zero_and_one():
    assert accuracy_interval(1.0, 50)[1] == 1.0
    assert accuracy_interval(0.0, 50)[0] == 0.0


def test_perplexity_of_a_hopeless_loss_is_left_out_and_no_crash():
    assert perplexity(1e9) is None
    assert perplexity(float("nan")) is None


def test_hand_written_prompt_is_the_rows_of_its_tokens(base):
    prompt = hard_prompt(base, "Is it good?")
    ids = base.tokenizer.encode("Is it good?\n", add_special_tokens=False)
    assert torch.equal(prompt, base.module.get_input_embeddings().weight[ids].float())
    assert hard_prompt(base, "").shape == (0, 256)
    assert torch.equal(hard_prompt(base, "Is it good?", longest=2), prompt[:2])


def test_long_evaluations_end_when_asked(base, tokens):
    with pytest.raises(Cancelled):
        evaluate(
            base, some_prompt(base), tokens.splits["test"], tokens.label_ids, layout="packed", should_stop=lambda: True
        )
