"""Every causal family we know of: which layout it gets, and that its numbers are the definition's and PEFT's."""

from __future__ import annotations

import pytest
import torch

from softprompt_core import trunk
from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.layouts import batch_losses
from softprompt_core.models import embedding_table, load_model
from softprompt_core.plans import Row
from softprompt_core.records import LogRecord, StepRecord
from softprompt_core.self_check import choose_layout
from softprompt_core.training import train
from tests.reference import (
    Answer,
    answer_by_hand,
    answer_of_peft,
    peft_batch,
    prompts_of,
    relative,
    rows_of_one_length,
    some_rows,
)
from tests.tiny import SIZES, WINDOW, tiny_model

OWN_FORWARD = ("bloom", "gpt2", "llama", "mistral", "qwen2", "qwen3")      # packed by our own forward pass
PACKED = (
    "biogpt", "codegen", "cohere", "cohere2", "ctrl", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text", "glm4",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "mixtral", "nemotron", "olmo2", "olmo3", "opt",
    "opt_projected", "persimmon", "phi", "phi3", "qwen3_moe", "smollm3", "stablelm", "starcoder2", "xglm",
)
CACHED = ("falcon_alibi", "gpt_neo", "mpt")     # these count places in the line, not positions
CONCATENATED = ("falcon_h1", "jamba", "mamba", "mamba2", "openai-gpt", "recurrent_gemma")       # states, or no cache
LAYOUTS = {
    **dict.fromkeys(OWN_FORWARD + PACKED, "packed"), **dict.fromkeys(CACHED, "cached"),
    **dict.fromkeys(CONCATENATED, "concatenated"),
}
WINDOWED = ("cohere2", "gemma2", "gemma3_text", "gpt_neo", "gpt_oss", "mistral", "olmo3", "recurrent_gemma")
SCALED = ("gemma", "gemma2", "gemma3_text", "xglm", "biogpt")
P, T = 5, 9

pytestmark = pytest.mark.filterwarnings("ignore")       # of fast kernels that are not installed


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def base(request):
    return tiny_model(request.param)


def answer(base, prompt: torch.Tensor, rows: list[Row], layout: str) -> Answer:
    leaf = prompt.clone()[None].requires_grad_(True)
    losses, _ = batch_losses(base, leaf, [rows], layout=layout)
    losses.sum().backward()
    return losses[0].detach(), leaf.grad[0]


def assert_equal(found: Answer, expected: Answer) -> None:
    assert relative(found[0], expected[0]) <= 1e-5
    assert relative(found[1], expected[1]) <= 1e-5


def chosen(base, rows: list[Row]) -> str:
    """The layout that the self-check takes; whatever is not the fastest is marked, with a reason."""
    longest = P + max(len(r.context) + len(r.continuations[0]) for r in rows)
    choice = choose_layout(base, prompts_of(1, P), [rows], longest_tokens=longest)
    assert choice.is_fallback == (choice.name != "packed")
    assert choice.reason
    return choice.name


def test_every_family_gets_the_layout_of_the_table_and_the_numbers_of_the_definition(base):
    rows, prompt = some_rows(6), prompts_of(1, P)[0]
    layout = chosen(base, rows)
    assert layout == LAYOUTS[base.name]
    assert trunk.is_used(base) == (base.name in OWN_FORWARD)
    assert_equal(answer(base, prompt, rows, layout), answer_by_hand(base, prompt, rows))


@pytest.mark.parametrize("family", OWN_FORWARD)
def test_families_with_our_own_forward_pass_are_as_exact_without_it(family):
    base, rows, prompt = tiny_model(family), some_rows(6), prompts_of(1, P)[0]
    trunk.give_up(base)
    layout = chosen(base, rows)
    assert layout == ("cached" if family == "bloom" else "packed")      # BLOOM too counts places in the line
    assert_equal(answer(base, prompt, rows, layout), answer_by_hand(base, prompt, rows))


def test_every_family_gives_the_numbers_of_peft_where_nothing_is_padded(base):
    rows, prompt = rows_of_one_length(5, T), prompts_of(1, P)[0]
    expected = answer_of_peft(tiny_model(base.name), prompt, peft_batch(rows))
    assert_equal(answer(base, prompt, rows, LAYOUTS[base.name]), expected)


def test_rows_of_the_table_mean_to_a_model_what_their_tokens_mean(base):
    ids = torch.arange(2, 30)
    vectors = embedding_table(base)[ids]
    with torch.no_grad():
        by_id = base.module(input_ids=ids[None]).logits
        by_vector = base.module(inputs_embeds=vectors[None].clone()).logits
    assert relative(by_vector, by_id) <= 1e-5
    weight = base.module.get_input_embeddings().weight[ids]
    scale = base.hidden_size**0.5 if base.name in SCALED else 1.0
    assert torch.allclose(vectors, weight * scale, rtol=1e-3)


@pytest.mark.parametrize("family", WINDOWED)
def test_rows_that_pass_an_attention_window_stay_exact(family):
    base, rows, prompt = tiny_model(family), some_rows(4, longer=WINDOW), prompts_of(1, P)[0]
    layout = chosen(base, rows)
    assert layout == ("concatenated" if family == "recurrent_gemma" else "cached")
    assert_equal(answer(base, prompt, rows, layout), answer_by_hand(base, prompt, rows))


def test_the_table_names_every_tiny_model_but_the_one_that_is_not_causal():
    assert set(SIZES) - set(LAYOUTS) == {"xlnet"}
    assert len(LAYOUTS) >= 24


def test_a_model_that_reads_what_it_is_to_predict_is_refused():
    with pytest.raises(UserError, match="no causal language model"):
        choose_layout(tiny_model("xlnet"), prompts_of(1), [some_rows(3)], longest_tokens=20)


@pytest.mark.parametrize(("family", "level"), [("mamba", "warning"), ("llama", "info")])
def test_a_run_says_which_layout_it_got_and_warns_of_a_slower_one(tmp_path, family, level):
    tokenizer = load_model("bundled").tokenizer
    tiny_model(family, vocabulary=len(tokenizer)).module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.csv").write_text("text,label\n" + "late parcel,bad\nthank you,good\n" * 20)
    config = TrainConfig(
        model=str(tmp_path / "model"), data=str(tmp_path / "rows.csv"), steps=1, batch_size=4, virtual_tokens=3,
        device="cpu", dtype="fp32",
    )
    records = list(train({"a": config}))
    said = [r for r in records if isinstance(r, LogRecord) and r.text.startswith(f"layout {LAYOUTS[family]}: ")]
    assert [r.level for r in said] == [level]
    assert any(isinstance(r, StepRecord) for r in records)
