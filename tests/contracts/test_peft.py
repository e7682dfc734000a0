"""Equality with PEFT's prompt tuning where both do the same thing: input without padding."""

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
from softprompt_core.layouts import Prefix, batch_losses, choose_layout
from softprompt_core.models import BUNDLED_FOLDER, load_model
from softprompt_core.plans import Row
from tests.tiny import VOCABULARY, tiny_model

P, T = 6, 9
STEPS = 8


def rows_of_one_length(count: int, seed: int) -> list[Row]:
    """Rows whose text and label together are T tokens, so that PEFT needs no padding."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()

    return [Row(draw(T - 2 - i % 2), (draw(2 + i % 2),)) for i in range(count)]


def as_peft_batch(rows: list[Row]) -> dict[str, torch.Tensor]:
    ids = [[*r.context, *r.continuations[0]] for r in rows]
    labels = [[-100] * len(r.context) + list(r.continuations[0]) for r in rows]
    return {
        "input_ids": torch.tensor(ids), "labels": torch.tensor(labels),
        "attention_mask": torch.ones(len(rows), T).long(),
    }


def peft_twin(base, prompt: torch.Tensor):
    """PEFT's prompt tuning on a copy of the model, started from the same prompt."""
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P, prompt_tuning_init=PromptTuningInit.RANDOM,
        token_dim=base.hidden_size,
    )
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    with torch.no_grad():
        twin.prompt_encoder["default"].embedding.weight.copy_(prompt)
    return twin


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(P, 32, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.mark.parametrize("layout", ["packed", "concatenated"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2", "gpt_neox"])
def test_loss_and_prompt_gradient_equal_peft(family, layout):
    base, rows = tiny_model(family), rows_of_one_length(5, seed=1)
    twin = peft_twin(base, start())
    expected = twin(**as_peft_batch(rows)).loss
    expected.backward()
    gradient = twin.prompt_encoder["default"].embedding.weight.grad
    leaf = start()[None].requires_grad_(True)
    losses, _ = batch_losses(base, leaf, [rows], layout=layout)
    losses.sum().backward()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (leaf.grad[0] - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize(
    ("family", "heads", "width"), [("llama", 2, 8), ("gpt2", 4, 8), ("bloom", 4, 8), ("opt", 4, 8)]
)
def test_prefixes_give_the_loss_and_gradient_of_pefts_prefix_tuning(family, heads, width):
    base, rows = tiny_model(family), rows_of_one_length(5, seed=1)
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P, num_layers=2, num_attention_heads=heads,
        token_dim=heads * width,
    )
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    weight = twin.prompt_encoder["default"].embedding.weight
    expected = twin(**as_peft_batch(rows)).loss
    expected.backward()
    leaf = weight.detach().clone().requires_grad_(True)
    prefix = Prefix(leaf.view(1, P, 2, 2, heads, width).permute(0, 2, 3, 4, 1, 5))
    assert choose_layout(base, prefix, [rows], longest_tokens=P + T).name == "cached"
    losses, _ = batch_losses(base, prefix, [rows], layout="cached")
    losses.sum().backward()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (leaf.grad - weight.grad).norm() <= 1e-5 * weight.grad.norm()


def test_eight_optimiser_steps_equal_peft():
    base = tiny_model("llama")
    twin = peft_twin(base, start())
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.03, weight_decay=0.0)
    ours = torch.nn.Parameter(start())
    optimizer = torch.optim.AdamW([ours], lr=0.03, weight_decay=0.0)
    for step in range(STEPS):
        rows = rows_of_one_length(5, seed=step)
        loss = twin(**as_peft_batch(rows)).loss
        loss.backward()
        theirs.step()
        theirs.zero_grad()
        losses, _ = batch_losses(base, ours[None], [rows], layout="packed")
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
    found, expected = ours.detach(), twin.prompt_encoder["default"].embedding.weight.detach()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


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
