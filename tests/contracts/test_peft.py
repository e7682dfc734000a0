"""Equality with PEFT where both do the same thing: input without padding; and, in its own layout, with padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
)

from softprompt_core.adapters import export_peft, import_prompt
from softprompt_core.errors import UserError
from softprompt_core.layouts import Prefix, batch_losses
from softprompt_core.models import BUNDLED_FOLDER, load_model
from softprompt_core.self_check import choose_layout
from tests.reference import answer_of_peft, peft_batch, peft_twin, relative, rows_of_one_length, some_rows
from tests.tiny import tiny_model

P, T = 6, 9
STEPS = 8


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(P, 32, generator=torch.Generator().manual_seed(seed)) * 0.3


def answer(base, rows, layout, **named):
    leaf = start()[None].requires_grad_(True)
    losses, lines = batch_losses(base, leaf, [rows], layout=layout, **named)
    losses.sum().backward()
    return losses[0].detach(), leaf.grad[0], lines


@pytest.mark.parametrize("layout", ["packed", "cached", "concatenated", "peft"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2", "gpt_neox"])
def test_loss_and_prompt_gradient_equal_peft_without_padding(family, layout):
    base, rows = tiny_model(family), rows_of_one_length(5, T, seed=1)
    expected, slope = answer_of_peft(base, start(), peft_batch(rows))
    loss, gradient, _ = answer(base, rows, layout)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(gradient, slope) <= 1e-5


@pytest.mark.parametrize("width", [None, 30])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "opt", "falcon_alibi", "mpt", "gpt_neo", "gemma3_text"])
def test_pefts_layout_equals_peft_with_padding_too(family, width):
    base, rows = tiny_model(family), some_rows(6)
    expected, slope = answer_of_peft(base, start(), peft_batch(rows, width=width))
    loss, gradient, lines = answer(base, rows, "peft", padded_to=width)
    assert lines.ids.shape == (6, P + (width or max(len(r.context) + len(r.continuations[0]) for r in rows)) - 1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(gradient, slope) <= 1e-5


def test_padding_changes_pefts_numbers_where_positions_are_counted_through_it():
    base, rows = tiny_model("llama"), some_rows(6)
    narrow, wide = (answer(base, rows, "peft", padded_to=width)[0].item() for width in (None, 30))
    assert narrow != pytest.approx(wide, rel=1e-3)


def test_pefts_layout_is_taken_when_asked_for():
    rows = some_rows(3)
    choice = choose_layout(tiny_model("llama"), start()[None], [rows], longest_tokens=30, peft_positions=True)
    assert (choice.name, choice.is_fallback) == ("peft", False)
    prefix = Prefix(torch.zeros(1, 2, 2, 2, P, 8))
    with pytest.raises(UserError, match="PEFT positions"):
        choose_layout(tiny_model("llama"), prefix, [rows], longest_tokens=30, peft_positions=True)


@pytest.mark.parametrize(
    ("family", "heads", "width"), [("llama", 2, 8), ("gpt2", 4, 8), ("bloom", 4, 8), ("opt", 4, 8)]
)
def test_prefixes_give_the_loss_and_gradient_of_pefts_prefix_tuning(family, heads, width):
    base, rows = tiny_model(family), rows_of_one_length(5, T, seed=1)
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P, num_layers=2, num_attention_heads=heads,
        token_dim=heads * width,
    )
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    weight = twin.prompt_encoder["default"].embedding.weight
    expected = twin(**peft_batch(rows)).loss
    expected.backward()
    leaf = weight.detach().clone().requires_grad_(True)
    prefix = Prefix(leaf.view(1, P, 2, 2, heads, width).permute(0, 2, 3, 4, 1, 5))
    assert choose_layout(base, prefix, [rows], longest_tokens=P + T).name == "cached"
    losses, _ = batch_losses(base, prefix, [rows], layout="cached")
    losses.sum().backward()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (leaf.grad - weight.grad).norm() <= 1e-5 * weight.grad.norm()


@pytest.mark.parametrize("layout", ["packed", "peft"])
def test_eight_optimiser_steps_equal_peft(layout):
    base = tiny_model("llama")
    twin = peft_twin(base, start())
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.03, weight_decay=0.0)
    ours = torch.nn.Parameter(start())
    optimizer = torch.optim.AdamW([ours], lr=0.03, weight_decay=0.0)
    for step in range(STEPS):
        rows = some_rows(5, seed=step) if layout == "peft" else rows_of_one_length(5, T, seed=step)
        width = 20 if layout == "peft" else None
        loss = twin(**peft_batch(rows, width=width)).loss
        loss.backward()
        theirs.step()
        theirs.zero_grad()
        losses, _ = batch_losses(base, ours[None], [rows], layout=layout, padded_to=width)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
    assert relative(ours.detach(), twin.prompt_encoder["default"].embedding.weight.detach()) <= 1e-5


def test_exported_prompt_gives_peft_the_same_logits(tmp_path):
    base = load_model("bundled")
    prompt = torch.randn(P, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.1
    export_peft(prompt.numpy(), tmp_path / "out", base_model=str(BUNDLED_FOLDER), tokenizer_name=str(BUNDLED_FOLDER))
    ids = torch.tensor([base.tokenizer.encode("Text: the parcel never came\nLabel:")])
    loaded = PeftModel.from_pretrained(copy.deepcopy(base.module), str(tmp_path / "out")).eval()
    with torch.no_grad():
        theirs = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
        words = base.module.get_input_embeddings()(ids)
        ours = base.module(inputs_embeds=torch.cat([prompt[None], words], dim=1)).logits[:, P:]
    assert (theirs - ours).abs().max() <= 1e-4


def test_prompt_folder_written_by_peft_opens_here(tmp_path):
    base = load_model("bundled")
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P, prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text="Is this a complaint?", tokenizer_name_or_path=str(BUNDLED_FOLDER),
    )
    twin = get_peft_model(copy.deepcopy(base.module), config)
    twin.save_pretrained(tmp_path / "theirs")
    found = import_prompt(tmp_path / "theirs")
    expected = twin.prompt_encoder["default"].embedding.weight.detach().float().numpy()
    assert np.array_equal(found.prompt, expected)
