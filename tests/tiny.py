"""Tiny real models with random weights, made on the spot; shared by tests that need more than one architecture."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from softprompt_core.models import BaseModel, load_tokenizer

VOCABULARY = 120
WINDOW = 24
PLAIN: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
ONE_HEAD_EACH = {**PLAIN, "num_key_value_heads": 4}
NARROW = {**PLAIN, "head_dim": 8}
EXPERTS = {
    **PLAIN, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
}
GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}
OPT = {"ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 32, "num_hidden_layers": 2}
FALCON = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
HALF_LOCAL = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
SIZES: dict[str, dict[str, Any]] = {
    "biogpt": ONE_HEAD_EACH,
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
    "codegen": {**GPT, "rotary_dim": 4, "n_ctx": 128},
    "cohere": PLAIN,
    "cohere2": {**PLAIN, "sliding_window": WINDOW},
    "ctrl": {"n_embd": 32, "n_head": 4, "n_layer": 2, "dff": 48, "n_positions": 128},
    "deepseek_v3": {
        **ONE_HEAD_EACH, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1,
    },
    "falcon": {**FALCON, "alibi": False},
    "falcon_alibi": {**FALCON, "alibi": True, "multi_query": False, "parallel_attn": False},
    "falcon_h1": {
        **PLAIN, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
    "gemma": NARROW,
    "gemma2": {**NARROW, **HALF_LOCAL},
    "gemma3_text": {**NARROW, **HALF_LOCAL},
    "glm4": NARROW,
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {
        "hidden_size": 32, "num_heads": 4, "num_layers": 2, "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
    },
    "gpt_neox": ONE_HEAD_EACH,
    "gpt_oss": {**EXPERTS, "head_dim": 8, **HALF_LOCAL},
    "gptj": {**GPT, "rotary_dim": 4},
    "granite": {
        **PLAIN, "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
    },
    "jamba": {
        **PLAIN, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False,
        "num_experts": 2, "mamba_dt_rank": 4,
    },
    "llama": PLAIN,
    "mamba": MAMBA,
    "mamba2": {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "mistral": {**PLAIN, "sliding_window": WINDOW},
    "mixtral": EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2},
    "nemotron": PLAIN,
    "olmo2": PLAIN,
    "olmo3": {**PLAIN, **HALF_LOCAL},
    "openai-gpt": GPT,
    "opt": {"hidden_size": 32, **OPT},
    "opt_projected": {"hidden_size": 48, **OPT, "do_layer_norm_before": False},      # as opt-350m
    "persimmon": ONE_HEAD_EACH,
    "phi": ONE_HEAD_EACH,
    "phi3": PLAIN,
    "qwen2": PLAIN,
    "qwen3": NARROW,
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "recurrent_gemma": {
        **NARROW, "lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": WINDOW,
    },
    "smollm3": PLAIN,
    "stablelm": PLAIN,
    "starcoder2": PLAIN,
    "xglm": {"d_model": 32, "ffn_dim": 48, "attention_heads": 4, "num_layers": 2},
    "xlnet": {"d_model": 32, "n_head": 4, "d_inner": 48, "n_layer": 2},
}
MODEL_TYPE = {"falcon_alibi": "falcon", "opt_projected": "opt"}


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32, vocabulary: int = VOCABULARY) -> BaseModel:
    """A frozen two-layer model of the family with seeded random weights large enough to matter."""
    config = AutoConfig.for_model(
        MODEL_TYPE.get(family, family), **SIZES[family], vocab_size=vocabulary, bos_token_id=0, eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.3 / parameter.shape[-1] ** 0.25)
    return BaseModel(
        name=family, module=module, tokenizer=load_tokenizer("bundled"), device=torch.device("cpu"), dtype=dtype,
        hidden_size=32, vocab_size=vocabulary, context=128, revision="random",
    )
