"""Methods beside prompt tuning: equal to PEFT and transformers, kept and used again, and the shared model untouched."""

from __future__ import annotations

import copy
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, TaskType, get_peft_model
from peft.utils import constants
from transformers import AutoModelForCausalLM

from softprompt_core import copies, methods, operations, self_check
from softprompt_core.config import METHODS, PROMPT_METHODS, TrainConfig
from softprompt_core.control import Control
from softprompt_core.data import load_task
from softprompt_core.errors import UserError
from softprompt_core.jobs.execute import execute, passes
from softprompt_core.layouts import batch_losses
from softprompt_core.methods import build_method, joined, restored_method, seeded
from softprompt_core.models import BUNDLED_FOLDER, BaseModel, load_model
from softprompt_core.plans import Row
from softprompt_core.records import Checkpoint, EndRecord, StepRecord, Weights
from softprompt_core.self_check import choose_layout
from softprompt_core.store import Store
from softprompt_core.tokenising import tokenise
from softprompt_core.training import train, trial
from tests.test_encoder_decoder import tiny as tiny_encoder_decoder
from tests.tiny import VOCABULARY, tiny_model

P, T = 5, 9
OTHERS = [method for method in METHODS if method != "prompt"]
COPYING = ("lora", "full")


def rows_of_one_length(count: int, seed: int) -> list[Row]:
    """Rows whose text and label together are T tokens, so that PEFT needs no padding."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()

    return [Row(draw(T - 2 - i % 2), (draw(2 + i % 2),)) for i in range(count)]


def as_batch(rows: list[Row]) -> dict[str, torch.Tensor]:
    """The same rows as transformers takes them."""
    ids = [[*r.context, *r.continuations[0]] for r in rows]
    labels = [[-100] * len(r.context) + list(r.continuations[0]) for r in rows]
    mask = torch.ones(len(rows), T).long()
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": mask}


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(P, 32, generator=torch.Generator().manual_seed(seed)) * 0.3


def settings(method: str, **changes: Any) -> TrainConfig:
    return TrainConfig(**{"method": method, "virtual_tokens": P, "lora_rank": 4, **changes})


def built(method: str, base: BaseModel, **changes: Any) -> methods.Method:
    return build_method(settings(method, **changes), base, start())


def loss_of(method: methods.Method, rows: list[Row], layout: Any = "packed") -> torch.Tensor:
    losses, _ = batch_losses(method.base, joined([method.lead()]), [rows], layout=layout)
    return losses.sum()


def fingerprint(module: Any) -> str:
    """A hash of every weight."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()


def assert_same_gradients(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for found, expected in zip(ours, theirs, strict=True):
        assert found is not None
        assert (found - expected).norm() <= 1e-5 * max(float(expected.norm()), 1e-3)


# ----------------------------------------------------------- against PEFT


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_p_tuning_gives_pefts_loss_and_gradient(family):
    base, rows = tiny_model(family), rows_of_one_length(5, seed=1)
    ours = built("p_tuning", base)
    config = PromptEncoderConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P, encoder_hidden_size=32)
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    theirs = twin.prompt_encoder["default"]
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.tensors().items()})
    loss, expected = loss_of(ours, rows), twin(**as_batch(rows)).loss
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


@pytest.mark.parametrize(("family", "heads"), [("llama", 2), ("gpt2", 4), ("bloom", 4), ("opt", 4)])
def test_prefix_tuning_gives_pefts_loss_and_gradient(family, heads):
    base, rows = tiny_model(family), rows_of_one_length(5, seed=1)
    ours = built("prefix", base)
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P, num_layers=2, num_attention_heads=heads,
        token_dim=heads * 8,
    )
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    weight = twin.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(ours.tensors()["prompt_embeddings"]))
    loss, expected = loss_of(ours, rows, "cached"), twin(**as_batch(rows)).loss
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients([p.grad for p in ours.parameters()], [weight.grad])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bloom"])
def test_prefix_begins_with_the_answers_of_the_starting_prompt(family):
    base, rows = tiny_model(family), rows_of_one_length(5, seed=2)
    expected, _ = batch_losses(base, start()[None], [rows], layout="concatenated")
    assert loss_of(built("prefix", base), rows, "cached").item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt"])
def test_lora_takes_pefts_steps(family):
    base = tiny_model(family)
    ours = built("lora", base)
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, fan_in_fan_out=family == "gpt2")
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    theirs = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter, value in zip(theirs, ours.tensors().values(), strict=True):
            parameter.copy_(torch.from_numpy(value))
    assert_same_steps(ours, twin, theirs)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_full_fine_tuning_takes_the_steps_of_plain_torch(family):
    base = tiny_model(family)
    twin = copy.deepcopy(base.module).requires_grad_(True)
    assert_same_steps(built("full", base), twin, list(twin.parameters()))


def assert_same_steps(ours: methods.Method, twin: Any, theirs: list[torch.nn.Parameter]) -> None:
    optimizers = [torch.optim.AdamW(p, lr=0.01, weight_decay=0.0) for p in (ours.parameters(), theirs)]
    first = last = 0.0
    for step in range(5):
        rows = rows_of_one_length(5, seed=0)
        losses = [loss_of(ours, rows), twin(**as_batch(rows)).loss]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=2e-5)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        first, last = (losses[0].item() if step == 0 else first), losses[0].item()
    assert last < first


# ------------------------------------------------------- the shared model


@pytest.mark.parametrize("method", OTHERS)
def test_shared_model_stays_as_it_is(method):
    base = tiny_model("llama")
    before, names = fingerprint(base.module), [name for name, _ in base.module.named_modules()]
    ours = built(method, base)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1)
    loss_of(ours, rows_of_one_length(4, seed=0), "cached" if method == "prefix" else "packed").backward()
    optimizer.step()
    assert fingerprint(base.module) == before
    assert [name for name, _ in base.module.named_modules()] == names
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in base.module.parameters())


def test_lora_shares_every_weight_with_the_model():
    base = tiny_model("llama")
    ours = built("lora", base)
    shared = {parameter.data_ptr() for parameter in base.module.parameters()}
    learned = {parameter.data_ptr() for parameter in ours.parameters()}
    assert {parameter.data_ptr() for parameter in ours.base.module.parameters()} == shared | learned
    assert not shared & learned


def test_full_fine_tuning_owns_its_weights_and_keeps_ties():
    base = load_model("bundled")
    ours = built("full", base)
    shared = {parameter.data_ptr() for parameter in base.module.parameters()}
    assert not shared & {parameter.data_ptr() for parameter in ours.parameters()}
    module = ours.base.module
    assert module.get_input_embeddings().weight is module.get_output_embeddings().weight
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in base.module.parameters())


@pytest.mark.parametrize("method", OTHERS)
def test_what_is_learned_is_float32_on_a_bfloat16_model(method):
    base = tiny_model("llama", dtype=torch.bfloat16)
    ours = built(method, base)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    layout = "cached" if method == "prefix" else "concatenated"
    loss_of(ours, rows_of_one_length(3, seed=0), layout).backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())


@pytest.mark.parametrize("method", ["p_tuning", "lora"])
def test_start_comes_from_the_seed_alone(method):
    base, state = tiny_model("llama"), torch.get_rng_state()
    one, same, other = (built(method, base, seed=seed).tensors() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_starts_that_are_drawn_at_once_in_two_threads_are_those_of_their_seeds():
    def drawn(seed):
        with seeded(seed):
            parts = []
            for _ in range(200):
                parts.append(torch.randn(10))
                time.sleep(0)       # lets the other thread draw
            return torch.cat(parts)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(drawn, [1, 2]))
    assert all(torch.equal(together, drawn(seed)) for together, seed in zip(found, [1, 2], strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_restored_tensors_are_the_same_and_others_are_refused(method):
    base = tiny_model("llama")
    tensors = {name: value + 1 for name, value in built(method, base).tensors().items()}
    again = restored_method(settings(method), base, tensors)
    assert all(np.array_equal(value, tensors[name]) for name, value in again.tensors().items())
    name = next(iter(tensors))
    for wrong in ({**tensors, name: tensors[name][:1]}, {"other": tensors[name]}):
        with pytest.raises(UserError, match="does not fit its model"):
            restored_method(settings(method), base, wrong)


# ------------------------------------------------------ what cannot be done


def test_full_fine_tuning_is_refused_before_anything_is_copied(monkeypatch):
    base = tiny_model("llama")
    weights = sum(parameter.numel() for parameter in base.module.parameters())
    monkeypatch.setattr(methods, "trainable_copy", lambda base: pytest.fail("copied"))
    monkeypatch.setattr(copies, "available_bytes", lambda device: 16 * weights)
    with pytest.raises(UserError, match=f"{weights:,} weights.*32 bytes a weight.*Choose the method lora or prompt"):
        built("full", base)
    monkeypatch.setattr(copies, "available_bytes", lambda device: 2 * weights)
    with pytest.raises(UserError, match="4 bytes a weight"):
        restored_method(settings("full"), base, {})


def test_models_without_attention_are_told_what_else_there_is():
    for method in ("lora", "prefix"):
        with pytest.raises(UserError, match="Choose the method prompt"):
            built(method, tiny_model("mamba"))


def test_lora_changes_all_of_the_attention_where_peft_names_no_layers(monkeypatch):
    base = tiny_model("llama")
    assert "q_proj, v_proj (PEFT's choice for llama)" in built("lora", base).about
    monkeypatch.delitem(constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "llama")
    ours = built("lora", base)
    assert "k_proj, o_proj, q_proj, v_proj (all linear layers of the attention)" in ours.about
    assert len(ours.parameters()) == 2 * 4 * 2


# ------------------------------------------------------------- self-check


@pytest.mark.parametrize("method", COPYING)
def test_packing_is_proven_on_the_methods_own_model(method, monkeypatch):
    ours, rows = built(method, tiny_model("llama")), rows_of_one_length(5, seed=3)
    lead = joined([ours.lead()])
    assert choose_layout(ours.base, lead, [rows], longest_tokens=T).name == "packed"

    def wrong(base, prompts, batches, *, layout):
        losses, lines = batch_losses(base, prompts, batches, layout=layout)
        if layout == "packed":      # the right loss with a gradient that is not its own
            losses = losses.detach() + 1.01 * (losses - losses.detach())
        return losses, lines

    monkeypatch.setattr(self_check, "batch_losses", wrong)
    found = choose_layout(ours.base, lead, [rows], longest_tokens=T)
    assert (found.name, found.is_fallback) == ("cached", True)


def test_only_prompts_share_a_pass():
    runs = {f"{method}{seed}": settings(method, seed=seed) for method in METHODS for seed in (0, 1)}
    assert [list(together) for together in passes(runs) if len(together) > 1] == [["prompt0", "prompt1"]]


# ------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def trained_with(mail_csv, tmp_path_factory):
    """(store, run id, records) of a short run of a method on the bundled model, each made once."""
    store, done = Store(tmp_path_factory.mktemp("methods")), {}

    def trained_with(method: str) -> tuple[Store, str, list[Any]]:
        if method not in done:
            config = settings(method, data=str(mail_csv), steps=6, eval_every=3, checkpoint_every=3)
            run_id, records = store.create(config), []
            store.claim([run_id], owner="me")
            execute(store, {run_id: config}, Control(), owner="me", on_record=records.append)
            done[method] = store, run_id, records
        return done[method]

    return trained_with


@pytest.mark.parametrize("method", OTHERS)
def test_run_learns_and_leaves_the_model_alone(method, trained_with):
    before = fingerprint(load_model("bundled").module)
    store, run_id, records = trained_with(method)
    assert fingerprint(load_model("bundled").module) == before
    info = store.run(run_id)
    assert (info.status, info.reason) == ("done", "")
    losses = [record.loss for record in records if isinstance(record, StepRecord)]
    assert losses[-1] < losses[0]
    weights = next(record for record in records if isinstance(record, Weights))
    assert info.result["trainable_parameters"] == sum(value.size for value in weights.tensors.values())
    assert set(info.result["baselines"]) == {"majority", "hand_written", "no_prompt"}
    assert store.has_prompt(run_id) == (method in PROMPT_METHODS)


@pytest.mark.parametrize("method", OTHERS)
def test_run_that_was_kept_gives_the_figures_that_training_gave(method, trained_with):
    store, run_id, _ = trained_with(method)
    said, found = store.run(run_id).result, operations.evaluate_run(store, run_id)
    assert found["loss"] == pytest.approx(said["eval_loss"], rel=1e-5)
    assert found["accuracy"] == said["eval_accuracy"]
    rows = operations.text_rows(store, run_id, ["parcel 3 came late", "parcel 4 came early"])
    (late, early) = operations.predict_with_run(store, run_id, rows)
    assert late["scores"] != early["scores"]


@pytest.mark.parametrize("method", OTHERS)
def test_resumed_run_takes_the_same_steps_to_the_last_bit(method, trained_with):
    store, run_id, records = trained_with(method)
    saved = next(record for record in records if isinstance(record, Checkpoint) and record.step == 3)
    again = list(train({run_id: store.config(run_id)}, resume={run_id: saved}))
    losses = [[r.loss for r in found if isinstance(r, StepRecord) and r.step > 3] for found in (records, again)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
    ends = [next(r for r in found if isinstance(r, EndRecord)).result["eval_loss"] for found in (records, again)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("method", OTHERS)
def test_exported_folder_gives_the_same_logits_elsewhere(method, trained_with, tmp_path):
    store, run_id, _ = trained_with(method)
    folder = operations.export_run(store, run_id, tmp_path / "out")
    base, rows = load_model("bundled"), [Row([5, 900, 77, 4000, 12], ([901, 44, 0],))]
    if method == "full":
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert theirs.dtype == torch.float32
    else:
        theirs = PeftModel.from_pretrained(copy.deepcopy(base.module), str(folder)).eval()
    ids = torch.tensor([[*rows[0].context, *rows[0].continuations[0]]])
    with torch.no_grad():
        logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
        model, lead = operations.learned(store, run_id)
        layout = "cached" if method == "prefix" else "concatenated"
        found, _ = batch_losses(model, joined([lead]), [rows], layout=layout)
    expected = -torch.log_softmax(logits[0, 4:-1], -1)[torch.arange(3), ids[0, 5:]].mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    assert (folder / "softprompt.json").is_file()


def test_exported_lora_has_the_logits_of_its_run(trained_with, tmp_path):
    store, run_id, _ = trained_with("lora")
    operations.export_run(store, run_id, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32)
    theirs, ids = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval(), torch.tensor([[5, 900, 77, 4000]])
    model, _ = operations.learned(store, run_id)
    with torch.no_grad():
        assert torch.allclose(theirs(input_ids=ids).logits, model.module(input_ids=ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["prefix", "lora", "full"])
def test_runs_without_virtual_tokens_say_so_when_they_are_to_be_read(method, trained_with):
    store, run_id, _ = trained_with(method)
    with pytest.raises(UserError, match=r"has no virtual tokens to read.*prompt or p_tuning"):
        operations.inspect_run(store, run_id)


def test_p_tuned_tokens_can_be_read_and_come_back_as_a_prompt(trained_with, tmp_path):
    store, run_id, _ = trained_with("p_tuning")
    assert len(operations.inspect_run(store, run_id, top=2)["tokens"]) == P
    operations.export_run(store, run_id, tmp_path / "out")
    back = operations.import_folder(store, tmp_path / "out")
    assert store.config(back).method == "prompt"
    assert operations.evaluate_run(store, back) == operations.evaluate_run(store, run_id)


def test_run_without_weights_says_when_they_come(tmp_path):
    store = Store(tmp_path)
    run_id = store.create(settings("lora"))
    with pytest.raises(UserError, match="no weights yet"):
        store.weights(run_id)


# ------------------------------------------------------- encoder–decoders


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("method", ["p_tuning", *COPYING])
def test_encoder_decoders_take_the_methods_too(method, family):
    base = tiny_encoder_decoder(family)
    ours, before = built(method, base), fingerprint(base.module)
    rows = [Row(row.context[:6], ([*row.continuations[0][:1], 0],)) for row in rows_of_one_length(4, seed=0)]
    ids, labels = (torch.tensor([list(part) for part in parts]) for parts in zip(
        *((row.context, row.continuations[0]) for row in rows), strict=True
    ))
    optimizer, losses = torch.optim.AdamW(ours.parameters(), lr=0.01), []
    for _ in range(3):
        lead = ours.lead()
        loss = loss_of(ours, rows, "encoder_decoder")
        words = torch.cat([lead.expand(len(rows), -1, -1), ours.base.embed(ids)], dim=1)
        assert loss.item() == pytest.approx(ours.base.module(inputs_embeds=words, labels=labels).loss.item(), rel=1e-5)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert fingerprint(base.module) == before


def test_prefixes_are_for_causal_models():
    with pytest.raises(UserError, match=r"encoder–decoder.*Choose the method prompt"):
        built("prefix", tiny_encoder_decoder("t5"))


@pytest.mark.parametrize("method", OTHERS)
def test_gradient_checkpointing_gives_the_same_steps(method, mail_csv):
    losses = []
    for is_on in (False, True):
        config = settings(method, data=str(mail_csv), gradient_checkpointing=is_on)
        base = load_model("bundled")
        tokens = tokenise(load_task(config), base.tokenizer, config, context=base.context)
        _, _, step = trial(config, base, tokens)
        losses.append([step().loss for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][2] != pytest.approx(losses[0][0], rel=1e-3)
