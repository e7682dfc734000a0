from __future__ import annotations

import shutil
import threading

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from softprompt_core import models
from softprompt_core.errors import UserError
from softprompt_core.models import (
    BUNDLED_FOLDER,
    choose_device,
    choose_dtype,
    embedding_table,
    load_model,
    locate,
)


def test_a_model_is_loaded_once_and_shared():
    assert load_model("bundled") is load_model("bundled", device="cpu", dtype="fp32")


def test_different_models_can_be_loaded_at_once(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        shutil.copytree(BUNDLED_FOLDER, folder)
    found, ready = {}, threading.Barrier(len(folders))

    def load(folder):
        ready.wait()
        try:
            found[folder] = load_model(str(folder)).name
        except UserError as error:
            found[folder] = str(error)

    threads = [threading.Thread(target=load, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {folder: str(folder) for folder in folders}


def test_a_loaded_model_is_frozen_and_in_evaluation_mode():
    module = load_model("bundled").module
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def test_table_is_what_the_embedding_module_gives_even_where_it_scales(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model("gemma", **sizes, num_key_value_heads=2, head_dim=8, vocab_size=8192)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_FOLDER / name, tmp_path / name)
    base = load_model(str(tmp_path))
    with torch.no_grad():
        expected = base.module.get_input_embeddings()(torch.arange(8192))
    assert torch.equal(embedding_table(base), expected)


def test_a_folder_with_the_model_gives_the_same_numbers_as_the_bundled_name():
    ours, folder = load_model("bundled"), load_model(str(BUNDLED_FOLDER))
    assert ours.revision == folder.revision
    assert torch.equal(embedding_table(ours), embedding_table(folder))


def test_pickled_weights_are_refused_with_a_way_out(tmp_path):
    shutil.copy(BUNDLED_FOLDER / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"never loaded.*safe_serialization=True"):
        load_model(str(tmp_path))


def test_weights_of_another_architecture_are_refused(tmp_path):
    shutil.copytree(BUNDLED_FOLDER, tmp_path / "t5")
    AutoConfig.for_model("t5", d_model=16, num_layers=1, vocab_size=100).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match=r"do not fill the T5ForConditionalGeneration .* are missing"):
        load_model(str(tmp_path / "t5"))


def test_t5_has_no_last_place_and_bart_has():
    assert models._context({"relative_attention_num_buckets": 32, "n_positions": 512}) is None
    assert models._context({"max_position_embeddings": 1024}) == 1024


def test_a_model_that_reads_no_words_is_refused_with_what_would_do(tmp_path):
    shutil.copytree(BUNDLED_FOLDER, tmp_path / "whisper")
    AutoConfig.for_model("whisper", d_model=16).save_pretrained(tmp_path / "whisper")
    with pytest.raises(UserError, match="no causal language model that reads tokens, and no encoder–decoder of text"):
        load_model(str(tmp_path / "whisper"))


def test_a_downloaded_hub_model_is_known_by_its_config(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "config.json").write_text('{"is_encoder_decoder": true, "max_position_embeddings": 64}')
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "config.json"))
    assert models.read_is_encoder_decoder("owner/name")
    assert models.read_context("owner/name") == 64


def test_hub_ids_are_told_from_paths():
    assert locate("owner/name") == "owner/name"
    with pytest.raises(UserError, match="no model folder"):
        locate("./not-there")


def test_device_that_is_not_there_names_what_is():
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="this machine, which has cpu"):
            choose_device("cuda")


def test_automatic_dtype_on_a_cpu_is_float32():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16


def test_context_of_a_model_that_also_sees_is_that_of_its_reading_part():
    assert models._context({"text_config": {"max_position_embeddings": 64}, "vision_config": {}}) == 64


def test_the_model_used_longest_ago_goes_before_another_is_loaded(monkeypatch):
    kept = []
    monkeypatch.setattr(models, "_MODELS", {})
    monkeypatch.setattr(models, "_load", lambda name, *_: kept.append(list(models._MODELS)) or name)
    for name in ("a", "b", "c"):
        load_model(name, device="cpu")
    assert [[name for name, *_ in keys] for keys in kept] == [[], ["a"], ["b"]]


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_a_gpu_that_only_emulates_bfloat16_gets_half_precision(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *given: True)       # it counts emulation, too
    assert choose_dtype("auto", torch.device("cuda")) == expected


def test_a_model_is_given_without_loading_only_where_it_is_loaded(tmp_path):
    base = load_model("bundled")
    assert models.loaded_model("bundled") is base
    assert models.loaded_model(str(tmp_path)) is None
