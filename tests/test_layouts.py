from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt_core.layouts import Row, batch_losses, choose_layout, continuation_scores, plan
from tests.tiny import VOCABULARY, tiny_model

PACKING = ("llama", "gpt2", "gpt_neox", "opt", "qwen2", "gemma")
ids = st.integers(2, VOCABULARY - 1)
rows = st.builds(
    Row,
    st.lists(ids, min_size=1, max_size=12),
    st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=3),
)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def prompts_of(count: int, length: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, length, 32, generator=torch.Generator().manual_seed(seed))


def some_rows(count: int, seed: int = 0) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()

    return [Row(draw(3 + (7 * i) % 11), (draw(1 + i % 3),)) for i in range(count)]


def loss_and_gradient(base, prompts, batches, layout):
    leaf = prompts.clone().requires_grad_(True)
    losses, _ = batch_losses(base, leaf, batches, layout=layout)
    losses.sum().backward()
    return losses.detach(), leaf.grad


def reference_loss(base, prompt, batch):
    """The definition, row by row with nothing clever: −Σ log p ÷ label tokens."""
    total, count = 0.0, 0
    embed = base.module.get_input_embeddings()
    for row in batch:
        label = list(row.continuations[0])
        words = embed(torch.tensor([list(row.context) + label]))
        logits = base.module(inputs_embeds=torch.cat([prompt[None], words], dim=1)).logits[0]
        start = len(prompt) + len(row.context) - 1
        log_p = torch.log_softmax(logits[start:start + len(label)].float(), dim=-1)
        total -= log_p[range(len(label)), label].sum()
        count += len(label)
    return total / count


@pytest.mark.parametrize("layout", ["packed", "concatenated"])
@pytest.mark.parametrize("family", PACKING)
def test_loss_and_gradient_equal_the_row_by_row_definition(family, layout):
    base, prompts, batch = tiny_model(family), prompts_of(1), some_rows(6)
    leaf = prompts.clone().requires_grad_(True)
    expected = reference_loss(base, leaf[0], batch)
    expected.backward()
    losses, gradient = loss_and_gradient(base, prompts, [batch], layout)
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - leaf.grad).norm() <= 1e-5 * leaf.grad.norm()


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6))
def test_packed_scores_equal_concatenated_scores_for_any_rows(llama, batch):
    with torch.no_grad():
        packed, plain = (
            continuation_scores(llama, prompts_of(1), plan([batch], prompt_length=5, layout=layout))
            for layout in ("packed", "concatenated")
        )
    assert torch.allclose(packed, plain, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(rows, min_size=2, max_size=5), st.randoms())
def test_a_row_scores_the_same_whatever_stands_beside_it(llama, batch, random):
    with torch.no_grad():
        alone = [
            continuation_scores(llama, prompts_of(1), plan([[row]], prompt_length=5, layout="packed"))
            for row in batch
        ]
        order = list(range(len(batch)))
        random.shuffle(order)
        mixed = continuation_scores(
            llama, prompts_of(1), plan([[batch[i] for i in order]], prompt_length=5, layout="packed")
        )
    assert torch.allclose(mixed, torch.cat([alone[i] for i in order]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["packed", "concatenated"])
def test_prompts_in_company_get_the_loss_and_gradient_they_get_alone(llama, layout):
    prompts, batches = prompts_of(3), [some_rows(4, seed=1), some_rows(7, seed=2), some_rows(2, seed=3)]
    together, gradient = loss_and_gradient(llama, prompts, batches, layout)
    for k, batch in enumerate(batches):
        alone, own = loss_and_gradient(llama, prompts[k:k + 1], [batch], layout)
        assert together[k].item() == pytest.approx(alone[0].item(), rel=1e-5)
        assert (gradient[k] - own[0]).norm() <= 1e-5 * own.norm()


def test_long_batches_are_packed_into_several_lines(llama):
    batch = [Row([3] * 100, ([4, 0],)) for _ in range(12)]
    lines = plan([batch], prompt_length=5, layout="packed")
    assert len(lines.prompt_of) == 3
    assert lines.ids.shape[1] <= 512


def test_positions_are_contiguous_after_the_prompt():
    lines = plan([[Row([7, 8], ([9, 10, 0], [11, 0])), Row([5], ([6, 0],))]], prompt_length=3, layout="packed")
    assert lines.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 3, 4]
    assert lines.ids[0].tolist() == [0, 0, 0, 7, 8, 9, 10, 11, 5, 6]


def test_no_prompt_at_all_scores_the_bare_text(llama):
    batch = some_rows(3)
    losses, _ = batch_losses(llama, torch.zeros(1, 0, 32), [batch], layout="packed")
    assert losses[0].item() == pytest.approx(reference_loss(llama, torch.zeros(0, 32), batch).item(), rel=1e-5)


@pytest.mark.parametrize("family", PACKING)
def test_packing_is_chosen_where_it_is_exact(family):
    choice = choose_layout(tiny_model(family), prompts_of(1), [some_rows(6)], longest_tokens=30)
    assert (choice.name, choice.is_fallback) == ("packed", False)


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_architectures_that_cannot_pack_fall_back_and_stay_exact(family):
    base, batch = tiny_model(family), some_rows(5)
    choice = choose_layout(base, prompts_of(1), [batch], longest_tokens=30)
    assert (choice.name, choice.is_fallback) == ("concatenated", True)
    losses, _ = batch_losses(base, prompts_of(1), [batch], layout=choice.name)
    assert losses[0].item() == pytest.approx(reference_loss(base, prompts_of(1)[0], batch).item(), rel=1e-5)


def test_rows_longer_than_a_sliding_window_are_never_packed():
    base = tiny_model("mistral")
    assert choose_layout(base, prompts_of(1), [some_rows(5)], longest_tokens=20).name == "packed"
    choice = choose_layout(base, prompts_of(1), [some_rows(5)], longest_tokens=40)
    assert choice.name == "concatenated"
    assert "window of 24" in choice.reason


def test_local_attention_by_place_in_the_line_is_never_packed():
    base = tiny_model("gpt_neo")
    assert choose_layout(base, prompts_of(1), [some_rows(2)], longest_tokens=12).name == "concatenated"
    batch = some_rows(12)
    losses, _ = batch_losses(base, prompts_of(1), [batch], layout="concatenated")
    assert losses[0].item() == pytest.approx(reference_loss(base, prompts_of(1)[0], batch).item(), rel=1e-5)
