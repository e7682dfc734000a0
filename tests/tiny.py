"""Tiny real models with random weights, made on the spot; shared by tests that need more than one architecture."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from softprompt_core.models import BaseModel, load_tokenizer

SIZES = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_positions": 128},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4},
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 32},
    "qwen2": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gemma": {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    },
    "bloom": {"hidden_size": 32, "n_head": 4},
    "mistral": {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
        "sliding_window": 24,
    },
    "gpt_neo": {
        "hidden_size": 32, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 24,
    },
    "mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2},
}
LAYERS = {"gpt2": "n_layer", "bloom": "n_layer", "gpt_neo": "num_layers"}
VOCABULARY = 120


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32) -> BaseModel:
    """A frozen two-layer model of the family with seeded random weights large enough to matter."""
    sizes = {LAYERS.get(family, "num_hidden_layers"): 2, "vocab_size": VOCABULARY, **SIZES[family]}
    config = AutoConfig.for_model(family, **sizes, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3 / parameter.shape[1] ** 0.25)
    return BaseModel(
        name=family, module=module, tokenizer=load_tokenizer("bundled"), device=torch.device("cpu"), dtype=dtype,
        hidden_size=32, vocab_size=VOCABULARY, context=128, revision="random",
    )
