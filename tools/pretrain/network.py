"""The model: built anew, or grown in depth from a smaller one without changing what it computes."""

import copy
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

OUTPUT_PROJECTIONS = ("o_proj.weight", "down_proj.weight")


def build_model(
    embeddings: torch.Tensor, *, layers: int, heads: int, context: int, end: int, pad: int
) -> LlamaForCausalLM:
    """Return a Llama model with tied `embeddings` [V, H] whose layers start as the identity."""
    vocabulary, width = embeddings.shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=int(width * 8 / 3 / 16) * 16,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embeddings)
    silence_layers(model, range(layers))
    return model


def grow_model(folder: Path, layers: int) -> LlamaForCausalLM:
    """Return the model in `folder` with `layers` layers, the new ones silent copies of those below them.

    A new layer's output projections are zero, so the grown model computes what the small one did
    (Chen, Goodfellow and Shlens, "Net2Net", 2016, for the idea of growth that preserves function).
    """
    small = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    have = small.config.num_hidden_layers
    if layers < have:
        raise ValueError(f"{folder} has {have} layers; --layers {layers} would drop some. Ask for {have} or more.")
    # layer i of the grown model comes from layer origin[i]; an origin seen before marks a silent copy
    origin = [i * have // layers for i in range(layers)]
    config = copy.deepcopy(small.config)
    config.num_hidden_layers = layers
    model = LlamaForCausalLM(config)
    weights = {n: w for n, w in small.state_dict().items() if not n.startswith("model.layers.")}
    for new, old in enumerate(origin):
        prefix = f"model.layers.{old}."
        for name, weight in small.state_dict().items():
            if name.startswith(prefix):
                weights[f"model.layers.{new}." + name.removeprefix(prefix)] = weight
    model.load_state_dict(weights)
    silence_layers(model, [i for i in range(1, layers) if origin[i] == origin[i - 1]])
    return model


def silence_layers(model: LlamaForCausalLM, layers: range | list[int]) -> None:
    """Zero the output projections of the given layers, which makes each the identity."""
    prefixes = tuple(f"model.layers.{i}." for i in layers)
    for name, weight in model.named_parameters():
        if name.startswith(prefixes) and name.endswith(OUTPUT_PROJECTIONS):
            torch.nn.init.zeros_(weight)


def export_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config and bfloat16 weights of the model to `folder`."""
    out = copy.deepcopy(model).to("cpu", torch.bfloat16)
    out.generation_config.pad_token_id = model.config.pad_token_id
    out.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes files that only their owner may read
