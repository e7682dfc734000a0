"""Our own forward pass against the model's own, over plain concatenation."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoConfig, AutoModelForCausalLM

from softprompt_core import families, self_check, trunk
from softprompt_core.layouts import batch_losses, continuation_scores
from softprompt_core.plans import Row, plan
from softprompt_core.self_check import choose_layout
from tests.tiny import VOCABULARY, tiny_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "bloom")
QWEN3 = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "num_hidden_layers": 2,
}
KINDS = {
    "one-token rows": [Row([7 + i], ([4, 0], [5 + i], [6, 6, 9])) for i in range(4)],
    "one label each": [Row(list(range(3, 6 + 2 * i)), ([4, 5, 0][i % 3:],)) for i in range(7)],
    "a common beginning": [Row([9, 8, 7, *range(3, 4 + i)], ([4, 0], [5])) for i in range(5)],
    "equal rows": [Row([9, 8, 7], ([4, 0], [5]))] * 3,
}
LAYOUTS = ("packed", "concatenated")
LONG = [Row([(i + j) % VOCABULARY for j in range(80)], ([4, 0], [5, 3, 0])) for i in range(2, 12)]


def model_of(family, *, dtype=torch.float32, **settings):
    """A tiny model of the family; qwen3 and every family with settings of its own made here."""
    if family == "mistral":
        settings["sliding_window"] = 256        # wider than the rows here; beyond it nothing is packed
    if family != "qwen3" and not settings:
        return tiny_model(family, dtype=dtype)
    like = tiny_model("qwen2" if family == "qwen3" else family, dtype=dtype)
    sizes = {"vocab_size": VOCABULARY, **QWEN3} if family == "qwen3" else like.module.config.to_dict()
    config = AutoConfig.for_model(**{**sizes, **settings, "model_type": family})
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(float(parameter.ndim == 1), 0.1)
    return replace(like, name=family, module=module)


def prompts_of(count, length, *, seed=0):
    return torch.randn(count, length, 32, generator=torch.Generator().manual_seed(seed))


def loss_and_gradient(base, prompts, batches, layout):
    leaf = prompts.clone().requires_grad_(True)
    losses, _ = batch_losses(base, leaf, batches, layout=layout)
    losses.sum().backward()
    return losses.detach(), leaf.grad


def assert_equals_concatenation(base, prompts, batches, *, tolerance=1e-5):
    found = loss_and_gradient(base, prompts, batches, "packed")
    expected = loss_and_gradient(base, prompts, batches, "concatenated")
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_plain_concatenation(family, length, kind):
    base = model_of(family)
    assert trunk.is_used(base)
    assert_equals_concatenation(base, prompts_of(1, length), [KINDS[kind]])


@pytest.mark.parametrize("length", [4, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_company_and_no_prompt_equal_plain_concatenation(family, length):
    base, batches = model_of(family), [KINDS["one label each"], KINDS["one-token rows"], KINDS["equal rows"]]
    assert_equals_concatenation(base, prompts_of(3, length), batches)
    with torch.no_grad():
        bare = [batch_losses(base, torch.zeros(1, 0, 32), batches[:1], layout=layout)[0] for layout in LAYOUTS]
    assert torch.allclose(*bare, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_batches_of_several_lines_and_lengths_equal_plain_concatenation(family, monkeypatch):
    base, prompts, batch = model_of(family), prompts_of(1, 3), [*LONG, *KINDS["one-token rows"]]
    assert len(plan([batch], prompt_length=3, layout="packed").prompt_of) > 1
    assert_equals_concatenation(base, prompts, [batch])
    monkeypatch.setattr(trunk, "KEPT_WEIGHTS", 0)
    assert_equals_concatenation(base, prompts, [batch])
    monkeypatch.setattr(trunk, "COPIED", 0)
    assert_equals_concatenation(base, prompts, [batch])


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_as_it_rounds(family):
    assert_equals_concatenation(
        model_of(family, dtype=torch.bfloat16), prompts_of(2, 4), [KINDS["one label each"]] * 2, tolerance=0.04
    )


@pytest.mark.parametrize("settings", [
    {"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 1}, {"head_dim": 16},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 500.0}},
    {"tie_word_embeddings": True},
])
def test_variants_of_llama_equal_plain_concatenation(settings):
    base = model_of("llama", **settings)
    assert trunk.is_used(base)
    assert_equals_concatenation(base, prompts_of(1, 4), [KINDS["one label each"]])


@pytest.mark.parametrize(("family", "settings"), [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}), ("gpt2", {"scale_attn_weights": False}),
    ("bloom", {"n_head": 2}),
])
def test_variants_of_scores_equal_plain_concatenation(family, settings):
    base = model_of(family, **settings)
    assert trunk.is_used(base)
    assert_equals_concatenation(base, prompts_of(1, 4), [KINDS["one label each"]])


@pytest.mark.parametrize("heads", [4, 6, 12, 16])
def test_slopes_of_alibi_are_blooms(heads):
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    expected = _get_alibi_slopes(heads, torch.device("cpu"))
    assert torch.allclose(families._slopes(heads, torch.device("cpu")), expected, rtol=1e-6)


def test_scoring_needs_no_gradient():
    base, lines = model_of("llama"), plan([KINDS["one-token rows"]], prompt_length=4, layout="packed")
    with torch.inference_mode():
        scores = continuation_scores(base, prompts_of(1, 4), lines)
    assert scores.shape == (12,)


def test_weights_are_left_as_they_were():
    base = model_of("bloom")
    before = copy.deepcopy(base.module.state_dict())
    loss_and_gradient(base, prompts_of(1, 4), [KINDS["one label each"]], "packed")
    assert all(torch.equal(before[name], weight) for name, weight in base.module.state_dict().items())
    assert all(weight.grad is None for weight in base.module.parameters())


def with_lora(module):
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), module)
    module.requires_grad_(False)


def with_hook(module):
    module.model.layers[0].mlp.register_forward_hook(lambda *_: None)


def with_own_forward(module):
    module.model.layers[0].forward = module.model.layers[0].forward


def of_another_class(part):
    part.__class__ = type("Another", (type(part),), {})


@pytest.mark.parametrize("change", [
    with_lora, with_hook, with_own_forward,
    lambda module: module.train(),
    lambda module: module.lm_head.requires_grad_(True),
    lambda module: setattr(module.model.layers[1].mlp, "act_fn", torch.nn.GELU()),
    lambda module: of_another_class(module.model.layers[1]), lambda module: of_another_class(module),
])
def test_models_changed_in_any_part_keep_their_own_forward_pass(change):
    base = model_of("llama")
    change(base.module)
    assert not trunk.is_used(base)


@pytest.mark.parametrize(("family", "settings"), [
    ("llama", {"hidden_act": "gelu"}), ("gpt2", {"activation_function": "relu"}),
    ("gpt2", {"reorder_and_upcast_attn": True}), ("bloom", {"apply_residual_connection_post_layernorm": True}),
    ("bloom", {"pretraining_tp": 2, "slow_but_exact": True}),
])
def test_unknown_variants_keep_their_own_forward_pass(family, settings):
    assert not trunk.is_used(model_of(family, **settings))


def test_double_precision_keeps_the_models_own_forward_pass():
    assert not trunk.is_used(model_of("llama", dtype=torch.float64))


def test_bloom_packs_by_our_own_forward_pass():
    choice = choose_layout(model_of("bloom"), prompts_of(1, 4), [KINDS["one label each"]], longest_tokens=30)
    assert (choice.name, choice.is_fallback) == ("packed", False)
    assert "own forward pass" in choice.reason


@pytest.mark.parametrize(("family", "then"), [("llama", "packed"), ("bloom", "cached")])
def test_a_pass_that_differs_is_given_up_and_said(family, then, monkeypatch):
    base, prompts, batch = model_of(family), prompts_of(1, 4), KINDS["one label each"]
    monkeypatch.setattr(trunk, "_weights", lambda q, keys, mask, scale: torch.ones(*q.shape[:2], mask.shape[-1]))
    choice = choose_layout(base, prompts, [batch], longest_tokens=30)
    assert (choice.name, choice.is_fallback) == (then, True)
    assert "our own forward pass is not used: packed rows differ" in choice.reason
    assert not trunk.is_used(base)
    found, expected = (self_check._loss_and_gradient(base, prompts, [batch], x) for x in (choice.name, "concatenated"))
    assert torch.allclose(found[0], expected[0], rtol=1e-5)
