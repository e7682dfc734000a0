"""Prompts in and out: PEFT loads what is exported, what PEFT wrote is read, and hostile files are refused
plainly."""

import json
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file
from transformers import LlamaConfig, LlamaForCausalLM

from softprompt_core.adapters import check_fits, export_peft, import_prompt
from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.records import Snapshot
from softprompt_core.store import Store, write_json

P, H = 5, 32


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=H,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def prompt():
    return np.random.default_rng(0).standard_normal((P, H)).astype(np.float32)


def concatenated_logits(model, prompt, ids):
    words = model.get_input_embeddings()(ids)
    rows = torch.from_numpy(prompt)[None].expand(len(ids), -1, -1)
    with torch.no_grad():
        return model(inputs_embeds=torch.cat([rows, words], dim=1)).logits


# ------------------------------------------------------------------------- out


@pytest.mark.parametrize("init_text", [None, "Say if it is a complaint:"])
def test_peft_loads_an_export_and_gives_the_logits_of_concatenation(llama, prompt, tmp_path, init_text):
    folder = export_peft(
        prompt,
        tmp_path / "out",
        base_model="nobody/no-such-model",
        tokenizer_name="nobody/none",
        init_text=init_text,
    )
    ids = torch.randint(3, 96, (3, 11), generator=torch.Generator().manual_seed(0))
    expected = concatenated_logits(llama, prompt, ids)
    loaded = PeftModel.from_pretrained(llama, folder).eval()
    with torch.no_grad():
        logits = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert (logits - expected).abs().max() < 1e-5


def test_export_then_import_is_identity(prompt, tmp_path):
    export_peft(
        prompt,
        tmp_path / "out",
        base_model="some/model",
        init_text="Say: ",
        template="Review: {text}\n",
        labels=["no", "yes"],
        facts={"dataset": "complaints"},
    )
    back = import_prompt(tmp_path / "out")
    assert back.kind == "peft_prompt_tuning"
    assert back.base_model == "some/model"
    assert (back.prompt == prompt).all()
    assert back.prompt.dtype == np.float32
    assert back.facts["template"] == "Review: {text}\n"
    assert back.facts["labels"] == ["no", "yes"]
    assert back.facts["init_text"] == "Say: "
    assert back.facts["dataset"] == "complaints"


def test_facts_stay_where_no_argument_replaces_them(prompt, tmp_path):
    facts = {"template": "Q: {text}", "labels": ["a", "b"], "text_column": "body"}
    export_peft(prompt, tmp_path / "o", base_model="m", facts=facts, labels=["c"])
    found = import_prompt(tmp_path / "o").facts
    assert [found[key] for key in ("template", "labels", "text_column")] == ["Q: {text}", ["c"], "body"]
    assert facts["labels"] == ["a", "b"]


def test_readme_holds_none_of_the_users_text(prompt, tmp_path):
    evil = "```\n<script>alert(1)</script>\n# owned"
    folder = export_peft(
        prompt, tmp_path / "o", base_model=evil, init_text=evil, template=evil, labels=[evil]
    )
    assert "script" not in (folder / "README.md").read_text(encoding="utf-8")
    assert import_prompt(folder).base_model == evil


def test_exporting_twice_replaces_but_never_overwrites_other_folders(prompt, tmp_path):
    export_peft(prompt, tmp_path / "o", base_model="m")
    export_peft(prompt[:2], tmp_path / "o", base_model="m")
    assert import_prompt(tmp_path / "o").prompt.shape == (2, H)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes")
    with pytest.raises(UserError, match=r"already holds README\.md"):
        export_peft(prompt, tmp_path / "mine", base_model="m")
    assert (tmp_path / "mine" / "README.md").read_text() == "my notes"


def test_export_refuses_what_peft_could_not_load(prompt, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_peft(prompt, tmp_path / "file", base_model="m")
    with pytest.raises(UserError, match="NaN"):
        export_peft(np.full((2, 3), np.nan, np.float32), tmp_path / "o", base_model="m")
    with pytest.raises(UserError, match="matrix of 1 to"):
        export_peft(prompt[0], tmp_path / "o", base_model="m")
    assert not (tmp_path / "o").exists()


# -------------------------------------------------------------------------- in


def test_folder_written_by_peft_opens(llama, tmp_path):
    model = get_peft_model(llama, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P))
    model.save_pretrained(tmp_path / "a")
    found = import_prompt(tmp_path / "a")
    assert found.kind == "peft_prompt_tuning"
    assert found.facts["notes"] == []
    assert (found.prompt == model.prompt_encoder["default"].embedding.weight.detach().numpy()).all()


def test_bfloat16_folder_written_by_peft_opens(llama, tmp_path):
    model = get_peft_model(
        llama.bfloat16(),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P),
        autocast_adapter_dtype=False,
    ).bfloat16()
    model.save_pretrained(tmp_path / "a")
    weight = model.prompt_encoder["default"].embedding.weight.detach()
    assert weight.dtype == torch.bfloat16
    assert (import_prompt(tmp_path / "a").prompt == weight.float().numpy()).all()


def test_p_tuning_folder_written_by_peft_gives_its_logits(llama, tmp_path):
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=P, encoder_hidden_size=16)
    model = get_peft_model(llama, config).eval()
    ids = torch.randint(3, 96, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    model.save_pretrained(tmp_path / "a")
    found = import_prompt(tmp_path / "a")
    assert found.kind == "peft_p_tuning"
    assert "encoder" in found.facts["notes"][0]
    assert (concatenated_logits(model.get_base_model(), found.prompt, ids) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
    ],
)
def test_other_peft_methods_are_refused_by_name(llama, tmp_path, config):
    get_peft_model(llama, config).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="PROMPT_TUNING and P_TUNING"):
        import_prompt(tmp_path / "a")


def test_second_copy_for_encoder_decoders_is_dropped(prompt, tmp_path):
    folder = export_peft(np.concatenate([prompt, prompt + 1]), tmp_path / "o", base_model="t5")
    config = json.loads((folder / "adapter_config.json").read_text())
    write_json(
        folder / "adapter_config.json",
        {
            **config,
            "num_virtual_tokens": P,
            "num_transformer_submodules": 2,
            "task_type": "SEQ_2_SEQ_LM",
        },
    )
    found = import_prompt(folder)
    assert (found.prompt == prompt).all()
    assert "twice" in found.facts["notes"][0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npy_and_safetensors_matrices_open(prompt, tmp_path, dtype):
    np.save(tmp_path / "p.npy", prompt.astype(dtype))
    save_file({"anything": prompt.astype(dtype)}, tmp_path / "p.safetensors")
    for name, kind in (("p.npy", "npy"), ("p.safetensors", "safetensors")):
        found = import_prompt(tmp_path / name)
        assert found.kind == kind
        assert found.base_model is None
        assert found.prompt.dtype == np.float32
        assert (found.prompt == prompt.astype(dtype).astype(np.float32)).all()
        found.prompt[0, 0] = 1  # a copy of one's own, not the file


def test_named_matrix_is_chosen_among_several(prompt, tmp_path):
    save_file(
        {"wte.weight": np.ones((96, H), np.float32), "learned_embedding": prompt}, tmp_path / "a.safetensors"
    )
    assert (import_prompt(tmp_path / "a.safetensors").prompt == prompt).all()
    save_file({"a": prompt, "b": prompt}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="2 of which could be the prompt"):
        import_prompt(tmp_path / "b.safetensors")


def test_run_folder_copied_elsewhere_opens(prompt, tmp_path):
    store = Store(tmp_path / "runs")
    config = TrainConfig(template="Q: {text}\n", init_text="Say:")
    run_id = store.create(config)
    store.append([Snapshot(run_id, 0, prompt)])
    (tmp_path / "copy").mkdir()

    def copied():
        source = store.folder(run_id)
        for path in (tmp_path / "copy").iterdir():
            path.unlink()
        for path in source.iterdir():
            if path.is_file():
                (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
        return import_prompt(tmp_path / "copy")

    assert (copied().prompt == prompt).all()
    assert copied().kind == "run"
    store.append([Snapshot(run_id, 7, prompt + 1, "selected")])
    found = copied()
    assert (found.prompt == prompt + 1).all()
    assert found.facts["step"] == 7
    assert found.base_model == "bundled"
    assert found.facts["template"] == "Q: {text}\n"
    (tmp_path / "copy" / "prompt.safetensors").unlink()
    (tmp_path / "copy" / "live.safetensors").unlink(missing_ok=True)
    assert (import_prompt(tmp_path / "copy").prompt == prompt).all()


# ---------------------------------------------------------------- hostile data


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bomb-went-off",))


@pytest.mark.parametrize("name", ["p.bin", "p.pt", "p.pth", "p.pkl", "p.ckpt", "P.BIN"])
def test_pickles_are_refused_with_a_way_to_convert(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"weights_only=True.*save_file"):
        import_prompt(tmp_path / name)
    assert not (tmp_path / "bomb-went-off").exists()


def test_pickles_inside_npy_and_peft_folders_are_not_opened(prompt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "p.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Bomb()))
    folder = export_peft(prompt, tmp_path / "o", base_model="m")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    for path in (tmp_path / "p.npy", tmp_path / "raw.npy", folder):
        with pytest.raises(UserError):
            import_prompt(path)
    assert not (tmp_path / "bomb-went-off").exists()


def break_json(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": ')


def break_json_deeply(folder):
    (folder / "adapter_config.json").write_text("[" * 200_000)


def break_json_type(folder):
    (folder / "adapter_config.json").write_text("[1, 2]")


def break_encoding(folder):
    (folder / "adapter_config.json").write_bytes(b"\xff\xfe\x00")


def break_type(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": ["PROMPT_TUNING"]}')


def break_facts(folder):
    (folder / "softprompt.json").write_text("nonsense")


def break_size(folder):
    (folder / "softprompt.json").write_text(" " * (5 << 20))


def truncate(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def truncate_header(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 8)


def empty_weights(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"")


def remove_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def other_count(folder):
    save_file({"prompt_embeddings": np.ones((P + 1, H), np.float32)}, folder / "adapter_model.safetensors")


def not_finite(folder):
    matrix = np.ones((P, H), np.float32)
    matrix[2, 3] = np.nan
    save_file({"prompt_embeddings": matrix}, folder / "adapter_model.safetensors")


def too_large_numbers(folder):
    save_file({"prompt_embeddings": np.full((P, H), 1e300)}, folder / "adapter_model.safetensors")


def whole_numbers(folder):
    save_file({"prompt_embeddings": np.ones((P, H), np.int64)}, folder / "adapter_model.safetensors")


def wrong_dimensions(folder):
    save_file({"prompt_embeddings": np.ones((P, 2, H), np.float32)}, folder / "adapter_model.safetensors")


def no_rows(folder):
    save_file({"prompt_embeddings": np.ones((0, H), np.float32)}, folder / "adapter_model.safetensors")


def a_whole_table(folder):
    save_file({"prompt_embeddings": np.ones((5_000, 2), np.float16)}, folder / "adapter_model.safetensors")


def eight_bit_floats(folder):
    matrix = torch.ones(P, H).to(torch.float8_e4m3fn)
    save_torch_file({"prompt_embeddings": matrix}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (break_json, "not valid JSON"),
        (break_json_deeply, "not valid JSON"),
        (break_json_type, "not an object"),
        (break_encoding, "cannot be read"),
        (break_type, "PROMPT_TUNING"),
        (break_facts, r"softprompt\.json"),
        (break_size, "MB"),
        (truncate, "damaged"),
        (truncate_header, "damaged"),
        (empty_weights, "damaged"),
        (remove_weights, "has no adapter_model"),
        (other_count, "promises 5"),
        (not_finite, "virtual token 2"),
        (too_large_numbers, "infinite"),
        (whole_numbers, "floating-point"),
        (wrong_dimensions, "5 by 2 by 32"),
        (no_rows, "1 to 1000"),
        (a_whole_table, "5000 by 2"),
        (eight_bit_floats, "damaged|floating"),
    ],
)
def test_damaged_folders_are_refused_in_two_sentences(prompt, tmp_path, damage, word):
    folder = export_peft(prompt, tmp_path / "o", base_model="m")
    damage(folder)
    with pytest.raises(UserError, match=word) as caught:
        import_prompt(folder)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4'", b"PK\x03\x04", b"hello" * 99]
)
def test_damaged_npy_is_refused(tmp_path, content):
    (tmp_path / "p.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"np\.save"):
        import_prompt(tmp_path / "p.npy")


def test_npy_that_promises_more_than_it_holds_is_refused(prompt, tmp_path):
    np.save(tmp_path / "p.npy", prompt)
    raw = (tmp_path / "p.npy").read_bytes()
    (tmp_path / "p.npy").write_bytes(raw.replace(b"(5, 32)", b"(9, 99)"))
    with pytest.raises(UserError, match=r"np\.save"):
        import_prompt(tmp_path / "p.npy")


def test_places_without_a_prompt_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, word in (
        (tmp_path, "no soft prompt"),
        (tmp_path / "gone", "nothing at"),
        (tmp_path / "notes.txt", "no kind"),
    ):
        with pytest.raises(UserError, match=word):
            import_prompt(path)


def test_a_prompt_of_another_width_does_not_fit(prompt):
    fits = SimpleNamespace(name="good", hidden_size=H, context=64)
    assert check_fits(prompt, fits) is None
    with pytest.raises(UserError, match=r"32 wide.*needs 64"):
        check_fits(prompt, SimpleNamespace(name="other", hidden_size=64, context=64))
    with pytest.raises(UserError, match="no text would fit"):
        check_fits(prompt, SimpleNamespace(name="short", hidden_size=H, context=P))


def test_importing_adapters_loads_neither_torch_nor_peft():
    code = "import sys, softprompt_core.adapters; print({'torch', 'peft', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )
