"""The choice itself; which family gets which layout stands in contracts/test_families.py."""

from __future__ import annotations

import pytest
import torch

from softprompt_core import self_check
from softprompt_core.errors import UserError
from softprompt_core.layouts import Prefix
from softprompt_core.models import load_model
from softprompt_core.plans import Row
from softprompt_core.self_check import choose_layout
from tests.reference import prompts_of, some_rows
from tests.tiny import tiny_model


def choice(family, *, rows=None, longest=30):
    return choose_layout(tiny_model(family), prompts_of(1), [rows or some_rows(5)], longest_tokens=longest)


def test_packing_is_taken_where_it_is_exact():
    found = choice("llama")
    assert (found.name, found.is_fallback) == ("packed", False)
    assert found.reason.startswith("equal to plain concatenation within ")


def test_rows_that_can_pass_a_sliding_window_are_never_packed():
    assert choice("mistral", longest=20).name == "packed"
    found = choice("mistral", longest=40)
    assert (found.name, found.is_fallback) == ("cached", True)
    assert "window of 24" in found.reason


def test_rows_too_long_to_try_past_a_window_are_concatenated():
    found = choice("mistral", longest=5_000)
    assert (found.name, found.is_fallback) == ("concatenated", True)


def test_local_attention_by_place_in_the_line_is_never_packed():
    found = choice("gpt_neo", rows=some_rows(2), longest=12)
    assert (found.name, found.is_fallback) == ("cached", True)


def test_a_layout_that_is_not_equal_is_refused_by_name_and_by_how_much():
    found = choice("mpt")
    assert (found.name, found.is_fallback) == ("cached", True)
    assert found.scoring == "cached"
    assert "packed rows differ from plain concatenation by " in found.reason


def test_an_architecture_without_fast_layouts_says_why_for_each():
    found = choice("mamba")
    assert (found.name, found.is_fallback) == ("concatenated", True)
    assert "packed" in found.reason
    assert "keeps no keys and values" in found.reason


def test_rounding_of_bfloat16_is_no_reason_to_fall_back():
    base = load_model("bundled", device="cpu", dtype="bf16")
    prompt = base.table[100:108][None].to(torch.float32)
    texts = ["the parcel is late", "thank you so much for the quick help", "where is my money, you promised it"]
    rows = [Row(base.tokenizer.encode(f"Text: {text}\nLabel:"), ([5, 0], [6, 7, 0])) for text in texts * 3]
    assert choose_layout(base, prompt, [rows], longest_tokens=60).name == "packed"


@pytest.mark.parametrize("family", ["mpt", "falcon_alibi", "mamba2", "recurrent_gemma"])
def test_wrong_packing_is_seen_in_bfloat16_too(family):
    base = tiny_model(family, dtype=torch.bfloat16)
    assert choose_layout(base, prompts_of(1), [some_rows(8)], longest_tokens=30).name != "packed"


def test_where_layouts_are_raced_the_faster_is_taken(monkeypatch):
    monkeypatch.setattr(self_check, "_are_raced", lambda base: True)
    monkeypatch.setattr(self_check, "_seconds", lambda *_: {"packed": 0.012, "cached": 0.005}[_[-1]])
    found = choice("llama")
    assert (found.name, found.is_fallback, found.scoring) == ("cached", False, "packed")
    assert "packed 12 ms a step, cached 5 ms a step" in found.reason


def test_a_fault_of_memory_is_no_fault_of_the_layout(monkeypatch):
    real = self_check.batch_losses

    def starved(base, prompts, batches, *, layout):
        if layout == "packed":
            raise torch.OutOfMemoryError
        return real(base, prompts, batches, layout=layout)

    monkeypatch.setattr(self_check, "batch_losses", starved)
    found = choice("llama")
    assert found.name == "cached"
    assert "does not fit in memory" in found.reason


def test_a_model_that_gives_a_prompt_no_gradient_is_refused_in_words():
    base = tiny_model("llama")
    base.module.model.norm.register_forward_hook(lambda module, args, output: output.detach())
    with pytest.raises(UserError, match="gives a soft prompt no gradient"):
        choose_layout(base, prompts_of(1), [some_rows(3)], longest_tokens=30)


def test_a_prefix_has_the_layout_cached():
    found = choose_layout(
        tiny_model("llama"), Prefix(torch.randn(1, 2, 2, 2, 5, 8)), [some_rows(4)], longest_tokens=30
    )
    assert (found.name, found.is_fallback) == ("cached", False)


@pytest.mark.parametrize(("family", "heads"), [("mamba", 2), ("llama", 4), ("openai-gpt", 4)])
def test_a_model_that_cannot_be_run_after_a_prefix_is_refused(family, heads):
    prefix = Prefix(torch.randn(1, 2, 2, heads, 5, 8))
    with pytest.raises(UserError, match="cannot be run after a prefix"):
        choose_layout(tiny_model(family), prefix, [some_rows(4)], longest_tokens=30)


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ({}, None),
        ({"sliding_window": 24}, 24),
        ({"sliding_window": 24, "use_sliding_window": False}, None),
        ({"sliding_window": 24, "layer_types": ["full_attention", "full_attention"]}, None),
        ({"sliding_window": 24, "layer_types": ["full_attention", "sliding_attention"]}, 24),
        ({"attention_chunk_size": 16, "layer_types": ["chunked_attention", "full_attention"]}, 16),
    ],
)
def test_the_window_of_a_model_is_the_narrowest_that_some_layer_has(settings, window):
    base = tiny_model("llama")
    for name, value in settings.items():
        setattr(base.module.config, name, value)
    assert base.window == window
