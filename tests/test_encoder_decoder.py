"""Encoder–decoder models: the loss by its definition, the laws that hold for every layout, PEFT, and every command."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Tokenizer

from softprompt_core.adapters import import_prompt
from softprompt_core.config import TrainConfig
from softprompt_core.encoder_decoder import difference_from_alone
from softprompt_core.errors import UserError
from softprompt_core.evaluation import hard_prompt, label_scores
from softprompt_core.layouts import Prefix, batch_losses, continuation_scores
from softprompt_core.models import BUNDLED_FOLDER, BaseModel, embedding_table, load_model, load_tokenizer
from softprompt_core.plans import Row, plan
from softprompt_core.recomputing import recomputing
from softprompt_core.records import Checkpoint, StepRecord
from softprompt_core.self_check import choose_layout
from softprompt_core.tokenising import target_token_ids, tokenise
from softprompt_core.training import train
from tests.tiny import VOCABULARY

HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 128, **HEADS}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
FAMILIES = {
    "t5": ("t5", T5),
    "mt5": ("mt5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "umt5": ("umt5", T5),
    "bart": ("bart", BART),
    "bart_scaled": ("bart", {**BART, "scale_embedding": True}),
    "mbart": ("mbart", {**BART, "scale_embedding": True}),
    "pegasus": ("pegasus", {**BART, "scale_embedding": True}),
}
P, H = 5, 32
ids = st.integers(2, VOCABULARY - 1)
rows = st.builds(
    Row,
    st.lists(ids, min_size=1, max_size=12),
    st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=3),
)


def random_module(family: str, *, vocabulary: int = VOCABULARY):
    """A tiny model of the family with seeded random weights large enough to matter."""
    kind, sizes = FAMILIES[family]
    special = {"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": 0, "decoder_start_token_id": 1}
    config = AutoConfig.for_model(kind, **sizes, vocab_size=vocabulary, forced_eos_token_id=0, **special)
    torch.manual_seed(0)
    module = AutoModelForSeq2SeqLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3 / parameter.shape[1] ** 0.25)
    return module


def tiny(family: str) -> BaseModel:
    return BaseModel(
        name=family, module=random_module(family), tokenizer=load_tokenizer("bundled"), device=torch.device("cpu"),
        dtype=torch.float32, hidden_size=H, vocab_size=VOCABULARY, context=128, revision="random",
    )


@pytest.fixture(scope="module", params=FAMILIES)
def base(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def t5():
    return tiny("t5")


def prompts_of(count: int, length: int = P, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, length, H, generator=torch.Generator().manual_seed(seed))


def some_rows(count: int, *, seed: int = 0, tokens: int | None = None) -> list[Row]:
    """Rows of many lengths, or of one, each with one label that ends in EOS."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()

    return [Row(draw(tokens or 3 + (7 * i) % 11), ([*draw(2 if tokens else 1 + i % 3), 0],)) for i in range(count)]


def loss_and_gradient(base, prompts, batches):
    leaf = prompts.clone().requires_grad_(True)
    losses, _ = batch_losses(base, leaf, batches, layout="encoder_decoder")
    losses.sum().backward()
    return losses.detach(), leaf.grad


def reference_loss(base, prompt, batch):
    """The definition, row by row through the whole model with nothing clever: −Σ log p ÷ label tokens."""
    total, count = 0.0, 0
    scale = H ** 0.5 if base.name == "pegasus" else 1.0
    for row in batch:
        label = list(row.continuations[0])
        words = base.module.get_input_embeddings()(torch.tensor([list(row.context)])) * scale
        start = label[-1] if base.name == "mbart" else 1       # mBART's decoder starts with the label's last token
        given = torch.tensor([[start, *label[:-1]]])
        vectors = torch.cat([prompt[None], words], dim=1)
        logits = base.module(inputs_embeds=vectors, decoder_input_ids=given).logits[0]
        log_p = torch.log_softmax(logits.float(), dim=-1)
        total -= log_p[range(len(label)), label].sum()
        count += len(label)
    return total / count


# ------------------------------------------------------------------ numbers


def test_loss_and_gradient_equal_the_row_by_row_definition(base):
    prompts, batch = prompts_of(1), some_rows(6)
    leaf = prompts.clone().requires_grad_(True)
    expected = reference_loss(base, leaf[0], batch)
    expected.backward()
    losses, gradient = loss_and_gradient(base, prompts, [batch])
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - leaf.grad).norm() <= 1e-5 * leaf.grad.norm()


def test_loss_of_the_bare_text_is_what_the_model_itself_says(base):
    batch = some_rows(4, tokens=9)
    texts, labels = (torch.tensor([list(part) for part in column]) for column in zip(
        *((row.context, row.continuations[0]) for row in batch), strict=True))
    with torch.no_grad():
        expected = base.module(input_ids=texts, labels=labels).loss
        losses, _ = batch_losses(base, torch.zeros(1, 0, H), [batch], layout="encoder_decoder")
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_causal_layout_asked_of_an_encoder_decoder_gives_its_own(t5):
    batch = some_rows(3)
    losses, lines = batch_losses(t5, prompts_of(1), [batch], layout="packed")
    assert lines.layout == "encoder_decoder"
    assert losses[0].item() == pytest.approx(reference_loss(t5, prompts_of(1)[0], batch).item(), rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(rows, min_size=2, max_size=5), st.randoms())
@pytest.mark.parametrize("family", ["t5", "bart_scaled"])
def test_a_row_scores_the_same_whatever_stands_beside_it(family, batch, random):
    base = _kept(family)
    order = list(range(len(batch)))
    random.shuffle(order)
    with torch.no_grad():
        alone = [
            continuation_scores(base, prompts_of(1), plan([[row]], prompt_length=P, layout="encoder_decoder"))
            for row in batch
        ]
        mixed = continuation_scores(
            base, prompts_of(1), plan([[batch[i] for i in order]], prompt_length=P, layout="encoder_decoder")
        )
    assert torch.allclose(mixed, torch.cat([alone[i] for i in order]), rtol=1e-5, atol=1e-5)


_KEPT: dict[str, BaseModel] = {}


def _kept(family: str) -> BaseModel:
    return _KEPT.setdefault(family, tiny(family))


def test_prompts_in_company_get_the_loss_and_gradient_they_get_alone(base):
    prompts, batches = prompts_of(3), [some_rows(4, seed=1), some_rows(7, seed=2), some_rows(2, seed=3)]
    together, gradient = loss_and_gradient(base, prompts, batches)
    for k, batch in enumerate(batches):
        alone, own = loss_and_gradient(base, prompts[k:k + 1], [batch])
        assert together[k].item() == pytest.approx(alone[0].item(), rel=1e-5)
        assert (gradient[k] - own[0]).norm() <= 1e-5 * own.norm()


def test_the_encoder_reads_each_text_once_however_many_labels_are_scored(t5, monkeypatch):
    seen = []
    encoder = t5.module.get_encoder()
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda **kw: seen.append(len(kw["inputs_embeds"])) or forward(**kw))
    labels = [[7, 8, 0], [9, 0], [10, 11, 12, 0]]
    texts = [list(row.context) for row in some_rows(5)]
    scores = label_scores(t5, prompts_of(1)[0], texts, labels, layout="concatenated")
    assert sum(seen) == len(texts)
    for text, found in zip(texts, scores, strict=True):
        for label, score in zip(labels, found, strict=True):
            loss = reference_loss(t5, prompts_of(1)[0], [Row(text, (label,))])
            assert score == pytest.approx(-loss.item() * len(label), rel=1e-5)


def test_a_plan_has_a_line_a_text_and_counts_what_is_computed():
    lines = plan([[Row([7, 8], ([9, 0], [10, 11, 0])), Row([5], ([6, 0],))]], prompt_length=3, layout="encoder_decoder")
    assert lines.ids.tolist() == [[0, 0, 0, 7, 8], [0, 0, 0, 5, 0]]
    assert lines.source.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert lines.owner.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert lines.tokens == (3 + 2) + (3 + 1) + 7


def test_choosing_a_layout_checks_that_padding_is_not_seen(base):
    choice = choose_layout(base, prompts_of(1), [some_rows(6)], longest_tokens=30)
    assert (choice.name, choice.is_fallback) == ("encoder_decoder", False)
    assert difference_from_alone(base, prompts_of(1), [some_rows(6)]) <= 1e-5


def test_a_model_that_sees_padding_is_told(t5, monkeypatch):
    blind = copy.deepcopy(t5.module)
    encoder = blind.get_encoder()
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda **kw: forward(inputs_embeds=kw["inputs_embeds"]))
    base = BaseModel(**{**vars(_plain(t5)), "module": blind})
    assert difference_from_alone(base, prompts_of(1), [some_rows(6)]) > 0.1
    choice = choose_layout(base, prompts_of(1), [some_rows(6)], longest_tokens=30)
    assert choice.is_fallback
    assert "sees padding" in choice.reason


def _plain(base: BaseModel) -> BaseModel:
    """The same model without what it has kept so far."""
    names = ("name", "module", "tokenizer", "device", "dtype", "hidden_size", "vocab_size", "context", "revision")
    return BaseModel(**{name: getattr(base, name) for name in names})


@pytest.mark.parametrize("family", ["t5", "bart_scaled"])
def test_activations_computed_twice_give_the_same_loss_and_gradient(family):
    base, batch = tiny(family), some_rows(5)
    expected, theirs = loss_and_gradient(base, prompts_of(1), [batch])
    found, ours = loss_and_gradient(recomputing(base), prompts_of(1), [batch])
    assert torch.equal(found, expected)
    assert torch.equal(ours, theirs)


def test_prefixes_are_refused_by_name(t5):
    with pytest.raises(UserError, match=r"encoder–decoder.*method prompt"):
        choose_layout(t5, Prefix(torch.zeros(1, 2, 2, 4, P, 8)), [some_rows(2)], longest_tokens=30)


# ----------------------------------------------------------------- the table


@pytest.mark.parametrize(("family", "scale"), [("t5", 1), ("bart", 1), ("bart_scaled", 32**0.5), ("pegasus", 32**0.5)])
def test_table_holds_the_vectors_that_stand_for_words(family, scale):
    base = tiny(family)
    weight = base.module.get_encoder().get_input_embeddings().weight
    assert torch.allclose(embedding_table(base), weight * scale, rtol=1e-6)


def test_a_prompt_of_words_is_those_words(base):
    words, text = [7, 8, 9], [10, 11, 12, 13]
    with torch.no_grad():
        soft, bare = (
            continuation_scores(base, lead[None], plan([[row]], prompt_length=len(lead), layout="encoder_decoder"))
            for lead, row in (
                (embedding_table(base)[words], Row(text, ([5, 0],))),
                (torch.zeros(0, H), Row(words + text, ([5, 0],))),
            )
        )
        expected = base.module(input_ids=torch.tensor([words + text]), labels=torch.tensor([[5, 0]])).loss
    assert soft.item() == pytest.approx(bare.item(), rel=1e-5)
    assert soft.item() == pytest.approx(-2 * expected.item(), rel=1e-5)


def test_a_hand_written_prompt_is_rows_of_the_table():
    base = BaseModel(**{**vars(_plain(tiny("pegasus"))), "module": random_module("pegasus", vocabulary=8_192)})
    base = BaseModel(**{**vars(_plain(base)), "vocab_size": 8_192})
    ids = base.tokenizer.encode("Is it good?\n", add_special_tokens=False)
    assert torch.allclose(hard_prompt(base, "Is it good?"), embedding_table(base)[ids])


# --------------------------------------------------------------- PEFT itself


def peft_twin(base, prompt: torch.Tensor):
    """PEFT's prompt tuning as it comes for these models: 2 P rows, of which the first P are used."""
    config = PromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=P, prompt_tuning_init=PromptTuningInit.RANDOM,
        token_dim=H,
    )
    twin = get_peft_model(copy.deepcopy(base.module), config).eval()
    assert twin.prompt_encoder["default"].embedding.weight.shape == (2 * P, H)
    with torch.no_grad():
        twin.prompt_encoder["default"].embedding.weight[:P] = prompt
    return twin


@pytest.mark.parametrize("family", ["t5", "mt5", "bart", "bart_scaled"])
def test_loss_and_prompt_gradient_equal_peft(family):
    base, batch = tiny(family), some_rows(5, seed=1, tokens=9)
    twin = peft_twin(base, prompts_of(1)[0])
    expected = twin(
        input_ids=torch.tensor([list(row.context) for row in batch]), attention_mask=torch.ones(5, 9).long(),
        labels=torch.tensor([list(row.continuations[0]) for row in batch]),
    ).loss
    expected.backward()
    gradient = twin.prompt_encoder["default"].embedding.weight.grad
    losses, own = loss_and_gradient(base, prompts_of(1), [batch])
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (own[0] - gradient[:P]).norm() <= 1e-5 * gradient[:P].norm()
    assert not gradient[P:].any()


@pytest.mark.parametrize("family", ["t5", "bart_scaled"])
def test_eight_optimiser_steps_equal_peft(family):
    base = tiny(family)
    twin, ours = peft_twin(base, prompts_of(1)[0]), torch.nn.Parameter(prompts_of(1)[0])
    optimizers = [
        torch.optim.AdamW(parameters, lr=0.03, weight_decay=0.0) for parameters in ([*twin.parameters()], [ours])
    ]
    first = None
    for _ in range(8):
        batch = some_rows(5, seed=3, tokens=9)
        theirs = twin(
            input_ids=torch.tensor([list(row.context) for row in batch]),
            labels=torch.tensor([list(row.continuations[0]) for row in batch]),
        ).loss
        losses, _ = batch_losses(base, ours[None], [batch], layout="encoder_decoder")
        assert losses[0].item() == pytest.approx(theirs.item(), rel=1e-5)
        first = first or losses[0].item()
        for loss, optimizer in zip((theirs, losses[0]), optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    expected = twin.prompt_encoder["default"].embedding.weight.detach()[:P]
    assert (ours.detach() - expected).norm() <= 1e-5 * expected.norm()
    assert losses[0].item() < first


# -------------------------------------------------- tokens of a family's kind


def tokenizer_of(kind: str):
    """The bundled tokenizer made to write a text as T5 or BART writes it."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(load_tokenizer("bundled"))
    special = [("<|endoftext|>", 0), ("<|pad|>", 1)]
    single = {"t5": "$A <|endoftext|>", "bart": "<|pad|> $A <|endoftext|>"}[kind]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize(("kind", "before"), [("t5", []), ("bart", [1])])
def test_text_and_label_are_whole_texts_as_the_tokenizer_writes_them(kind, before, mail_csv):
    from softprompt_core.data import load_task

    tokenizer, config = tokenizer_of(kind), TrainConfig(data=str(mail_csv))
    words = {text: load_tokenizer("bundled").encode(text) for text in ("good", "bad")}
    assert target_token_ids("good", tokenizer) == (*before, *words["good"], 0)
    tokens = tokenise(load_task(config), tokenizer, config, context=64, is_encoder_decoder=True)
    assert tokens.label_ids == ((*before, *words["bad"], 0), (*before, *words["good"], 0))
    for example in tokens.splits["train"]:
        assert example.context[-1] == 0
        assert list(example.context[:len(before)]) == before


def test_sentencepiece_labels_begin_a_word_once():
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁good", "good", "▁no", "t", "▁▁good"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    assert tokenizer.convert_ids_to_tokens(target_token_ids("good", tokenizer)) == ["▁good", "</s>"]
    assert tokenizer.convert_ids_to_tokens(target_token_ids("not good", tokenizer)) == ["▁no", "t", "▁good", "</s>"]


def test_long_texts_lose_their_left_end_and_keep_their_last_token(tmp_path):
    from softprompt_core.data import load_task

    path = tmp_path / "long.csv"
    path.write_text("text,label\n" + "".join(f"{'word ' * 60}{i} end,{'ab'[i % 2]}\n" for i in range(30)))
    config = TrainConfig(data=str(path), virtual_tokens=8)
    tokenizer = tokenizer_of("t5")
    tokens = tokenise(load_task(config), tokenizer, config, context=40, is_encoder_decoder=True)
    assert tokens.cut_rows == 30
    for example in tokens.splits["train"]:
        assert len(example.context) == 40 - 8       # the label is the decoder's and takes no room
        assert tokenizer.decode(example.context).endswith("end\nLabel:<|endoftext|>")


def test_eos_is_added_where_the_tokenizer_writes_none():
    tokenizer = load_tokenizer("bundled")
    assert target_token_ids("good", tokenizer) == (*tokenizer.encode("good"), 0)


def test_a_label_without_tokens_is_refused():
    with pytest.raises(UserError, match="has no tokens"):
        target_token_ids("<|pad|>", load_tokenizer("bundled"))


# ---------------------------------------------------------------- the models


def save(folder: Path, family: str) -> Path:
    """A folder that loads as a tiny model of the family with the bundled tokenizer."""
    random_module(family, vocabulary=8_192).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (BUNDLED_FOLDER / name).exists():
            shutil.copy(BUNDLED_FOLDER / name, folder / name)
    return folder


@pytest.fixture(scope="module", params=["t5", "bart_scaled"])
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp(request.param) / "model", request.param)


def test_an_encoder_decoder_loads_frozen(folder):
    base = load_model(str(folder))
    assert base.is_encoder_decoder
    assert not any(p.requires_grad for p in base.module.parameters())
    assert (base.hidden_size, base.vocab_size) == (H, 8_192)


# -------------------------------------------------------------- every command


@pytest.fixture(scope="module")
def run(folder, mail_csv, tmp_path_factory):
    """(a function from a command to its document, the id of a trained run, what training said)."""
    from tests.conftest import run_command

    runs_dir = tmp_path_factory.mktemp("runs")

    def run(*arguments):
        outcome = run_command(*arguments, "--json", "--runs-dir", runs_dir)
        assert outcome.code == 0, outcome.stderr
        return outcome.document

    weights = copy.deepcopy(load_model(str(folder)).module.state_dict())
    document = run(
        "train", "--model", folder, "--data", mail_csv, "--steps", 40, "--virtual-tokens", P, "--lr", 0.3, "--init",
        "sampled_vocab",
    )
    after = load_model(str(folder)).module.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    return run, document, runs_dir


def test_training_lowers_the_loss_and_names_the_layout(run):
    _, document, _ = run
    assert (document["status"], document["layout"]) == ("done", "encoder_decoder")
    assert document["trainable_parameters"] == P * H
    assert document["eval_loss"] < document["baselines"]["no_prompt"]["loss"] - 0.1
    assert set(document["baselines"]) >= {"majority", "hand_written", "no_prompt"}


@pytest.mark.parametrize("method", ["p_tuning", "lora"])
def test_other_methods_train_through_the_same_layout(run, folder, mail_csv, method):
    command, _, _ = run
    document = command("train", "--model", folder, "--data", mail_csv, "--steps", 5, "--method", method)
    assert (document["status"], document["layout"]) == ("done", "encoder_decoder")


def test_a_stopped_run_goes_on_as_if_never_stopped(folder, mail_csv):
    config = TrainConfig(model=str(folder), data=str(mail_csv), steps=6, virtual_tokens=P, eval_every=3)
    whole = list(train({"a": config}))
    saved = next(record for record in whole if isinstance(record, Checkpoint) and record.step == 3)
    rest = list(train({"a": config}, resume={"a": saved}))
    losses = [[r.loss for r in records if isinstance(r, StepRecord)] for records in (whole, rest)]
    assert losses[1] == losses[0][3:]


def test_evaluating_again_gives_the_figures_of_training(run):
    command, document, _ = run
    found = command("eval", document["run_id"])
    assert found["loss"] == pytest.approx(document["eval_loss"], rel=1e-5)
    assert found["accuracy"] == document["eval_accuracy"]


def test_predicting_gives_every_label_a_share(run):
    command, document, _ = run
    (found,) = command("predict", document["run_id"], "--text", "parcel 3 came late")
    assert set(found["probabilities"]) == {"bad", "good"}
    assert sum(found["probabilities"].values()) == pytest.approx(1)


def test_inspecting_names_the_nearest_words(run):
    command, document, _ = run
    found = command("inspect", document["run_id"])
    assert len(found["tokens"]) == P
    assert all(token["neighbours"] for token in found["tokens"])


def test_peft_loads_an_export_and_gives_our_logits(run, folder, tmp_path):
    command, document, _ = run
    command("export", document["run_id"], "--to", tmp_path / "out")
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["task_type"], adapter["num_transformer_submodules"]) == ("SEQ_2_SEQ_LM", 1)
    assert "AutoModelForSeq2SeqLM" in (tmp_path / "out" / "README.md").read_text()
    base = load_model(str(folder))
    prompt = torch.from_numpy(import_prompt(tmp_path / "out").prompt)
    text = torch.tensor([base.tokenizer.encode("Text: the parcel never came\nLabel:")])
    label = torch.tensor([[508, 9, 0]])
    loaded = PeftModel.from_pretrained(copy.deepcopy(base.module), str(tmp_path / "out")).eval()
    with torch.no_grad():
        theirs = loaded(input_ids=text, attention_mask=torch.ones_like(text), labels=label)
        ours = base.module(inputs_embeds=torch.cat([prompt[None], base.embed(text)], dim=1), labels=label)
        generated = loaded.generate(input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=3)
    assert (theirs.logits - ours.logits).abs().max() <= 1e-4
    assert generated.shape[1] <= 4


def test_an_export_comes_back_with_the_same_answers(run, tmp_path):
    command, document, _ = run
    command("export", document["run_id"], "--to", tmp_path / "out")
    again = command("import", tmp_path / "out")["run_id"]
    texts = ("--text", "parcel 3 came late", "--text", "parcel 4 came early")
    assert command("predict", again, *texts) == command("predict", document["run_id"], *texts)
    command("export", again, "--to", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"


def test_a_folder_written_by_peft_is_imported_without_its_dead_rows(run, folder, tmp_path):
    from softprompt_core.store import Store

    command, _, runs_dir = run
    config = PromptTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=P, token_dim=H)
    twin = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder), config)
    twin.save_pretrained(tmp_path / "theirs")
    weight = twin.prompt_encoder["default"].embedding.weight.detach().numpy()
    run_id = command("import", tmp_path / "theirs", "--model", folder)["run_id"]
    store = Store(runs_dir)
    assert np.array_equal(store.prompt(run_id), weight[:P])
    assert any("twice" in record.text for _, record in store.logs(run_id))
