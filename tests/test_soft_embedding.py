"""Both variants of SoftEmbedding, through a real model, equal plain concatenation."""

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softprompt_core.errors import UserError
from softprompt_core.soft_embedding import VARIANTS, prompt_of, soft_embedding

P, H, T = 4, 32, 9


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=H,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture
def prompt():
    return np.random.default_rng(0).standard_normal((P, H)).astype(np.float32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_equals_concatenation_in_logits_and_gradient(llama, prompt, variant):
    ids = torch.randint(0, 64, (3, T), generator=torch.Generator().manual_seed(0))
    rows = torch.tensor(prompt, requires_grad=True)
    words = llama.get_input_embeddings()(ids)
    expected = llama(inputs_embeds=torch.cat([rows.expand(3, -1, -1), words], dim=1)).logits
    expected.logsumexp(-1).sum().backward()

    model = copy.deepcopy(llama)
    embedding = soft_embedding(prompt, model.get_input_embeddings(), variant=variant)
    model.set_input_embeddings(embedding)
    placeholders = torch.full((3, P), 50)
    given = torch.cat([placeholders, ids], dim=1) if variant == "replace" else ids
    logits = model(input_ids=given).logits
    logits.logsumexp(-1).sum().backward()

    assert logits.shape == (3, P + T, 64)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(embedding.learned_embedding.grad, rows.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompt_comes_back_out(llama, prompt, variant):
    embedding = soft_embedding(prompt, llama.get_input_embeddings(), variant=variant)
    back = prompt_of(embedding)
    assert (back == prompt).all()
    back[:] = 0
    assert (prompt_of(embedding) == prompt).all()
    assert set(embedding.state_dict()) == {"wte.weight", "learned_embedding"}


def test_only_the_prompt_is_trainable(llama, prompt):
    embedding = soft_embedding(prompt, llama.get_input_embeddings())
    assert [name for name, p in embedding.named_parameters() if p.requires_grad] == ["learned_embedding"]


def test_wrong_width_and_unknown_variant_are_refused(llama, prompt):
    with pytest.raises(UserError, match="32 wide"):
        soft_embedding(prompt[:, :8], llama.get_input_embeddings())
    with pytest.raises(UserError, match="replace, prepend"):
        soft_embedding(prompt, llama.get_input_embeddings(), variant="append")
