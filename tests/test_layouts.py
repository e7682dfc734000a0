from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt_core.errors import UserError
from softprompt_core.evaluation import label_scores
from softprompt_core.layouts import Prefix, batch_losses, continuation_scores, prefix_left_by
from softprompt_core.plans import Row, plan
from tests.reference import answer_by_hand, loss_by_hand, prompts_of, relative, some_rows
from tests.tiny import VOCABULARY, tiny_model

LAYOUTS = ("packed", "cached", "concatenated")
ids = st.integers(2, VOCABULARY - 1)
rows = st.builds(
    Row,
    st.lists(ids, min_size=1, max_size=12),
    st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=3),
)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def scores(base, prompts, batch, layout):
    with torch.no_grad():
        return continuation_scores(base, prompts, plan([batch], prompt_length=5, layout=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "qwen2", "gemma"])
def test_loss_and_gradient_equal_the_row_by_row_definition(family, layout):
    base, prompts, batch = tiny_model(family), prompts_of(1), some_rows(6)
    leaf = prompts.clone().requires_grad_(True)
    losses, _ = batch_losses(base, leaf, [batch], layout=layout)
    losses.sum().backward()
    expected, slope = answer_by_hand(base, prompts[0], batch)
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(leaf.grad[0], slope) <= 1e-5


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6))
def test_every_layout_scores_any_rows_the_same(llama, batch):
    packed, cached, plain = (scores(llama, prompts_of(1), batch, layout) for layout in LAYOUTS)
    assert torch.allclose(packed, plain, rtol=1e-5, atol=1e-5)
    assert torch.allclose(cached, plain, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(rows, min_size=2, max_size=5), st.randoms(), st.sampled_from(LAYOUTS))
def test_a_row_scores_the_same_whatever_stands_beside_it(llama, batch, random, layout):
    alone = [scores(llama, prompts_of(1), [row], layout) for row in batch]
    order = list(range(len(batch)))
    random.shuffle(order)
    mixed = scores(llama, prompts_of(1), [batch[i] for i in order], layout)
    assert torch.allclose(mixed, torch.cat([alone[i] for i in order]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_prompt_at_all_scores_the_bare_text(llama, layout):
    batch = some_rows(3)
    losses, _ = batch_losses(llama, torch.zeros(1, 0, 32), [batch], layout=layout)
    assert losses[0].item() == pytest.approx(loss_by_hand(llama, torch.zeros(0, 32), batch).item(), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "opt", "gpt_neo", "gemma2"])
def test_the_prefixes_that_prompts_leave_stand_for_the_prompts(family):
    base, prompts, batches = tiny_model(family), prompts_of(2), [some_rows(4), some_rows(3, seed=1)]
    expected, _ = batch_losses(base, prompts, batches, layout="concatenated")
    found, _ = batch_losses(base, prefix_left_by(base, prompts), batches, layout="cached")
    assert torch.allclose(found, expected, rtol=1e-5)


def test_prefixes_in_company_get_the_loss_and_gradient_they_get_alone(llama):
    batches = [some_rows(4, seed=1), some_rows(7, seed=2), some_rows(2, seed=3)]
    leaf = prefix_left_by(llama, prompts_of(3)).keys_values.requires_grad_(True)
    losses, _ = batch_losses(llama, Prefix(leaf), batches, layout="cached")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    for k, batch in enumerate(batches):
        own = leaf[k:k + 1].detach().requires_grad_(True)
        alone, _ = batch_losses(llama, Prefix(own), [batch], layout="cached")
        (slope,) = torch.autograd.grad(alone.sum(), own)
        assert losses[k].item() == pytest.approx(alone.item(), rel=1e-5)
        assert relative(gradient[k], slope[0]) <= 1e-5


def test_labels_are_scored_after_a_prefix_as_after_the_prompt_that_left_it(llama):
    contexts, labels = [row.context for row in some_rows(5)], [[3, 0], [4, 5, 0]]
    after_prompt = label_scores(llama, prompts_of(1)[0], contexts, labels, layout="packed")
    after_prefix = label_scores(llama, prefix_left_by(llama, prompts_of(1)), contexts, labels, layout="cached")
    assert after_prefix == pytest.approx(after_prompt, rel=1e-5)


def test_a_model_without_keys_and_values_leaves_no_prefix():
    with pytest.raises(UserError, match="keeps no keys and values"):
        prefix_left_by(tiny_model("mamba"), prompts_of(1))


def test_a_model_that_works_on_what_it_is_given_leaves_the_prompt_as_it_was():
    base, prompts = tiny_model("ctrl"), prompts_of(1)      # which scales embeddings in place
    before = prompts.clone()
    scores(base, prompts, some_rows(3), "cached")
    assert torch.equal(prompts, before)


def test_labels_scored_in_pefts_layout_are_padded_to_the_longest_row_of_all(llama):
    prompt, contexts, labels = prompts_of(1), [[5] * 600, [6] * 700, [7, 8], [9]], [[3, 0], [4, 5, 0]]
    found = label_scores(llama, prompt[0], contexts, labels, layout="peft")     # more than one pass
    for row, context in zip(found, contexts, strict=True):
        for score, label in zip(row, labels, strict=True):
            loss, _ = batch_losses(llama, prompt, [[Row(context, (label,))]], layout="peft", padded_to=703)
            assert score == pytest.approx(-loss.item() * len(label), rel=1e-5)
