"""The model card: what the model is, how it was trained, what was measured, and under which licences."""

from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HEAD = """---
license: cc-by-sa-4.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# A small causal language model for soft prompts

"""
TAIL = """
## Use

No start token is added. `<|endoftext|>` (id {end}) ends every document; `<|pad|>` is id {pad}.
Short texts are best put as `Text: {{text}}\\nLabel: {{label}}`, an instruction before them if there is one.

## Text and licences

Novels (public domain), Wikipedia (CC BY-SA), task dialogues (CC BY-SA, CC BY) and labelled utterances
(CC BY, CC BY-SA, Apache 2.0), listed with their sources in `tools/pretrain/SOURCES.md`; task documents
derived from them, and opinions and messages written by rule. Complaints, emotions, tone and kinds of
question are among the tasks. Labelled sentences of the files named with `--keep-out` were left out of the
task documents; the four sources themselves are not filtered against them.
Weights: CC BY-SA 4.0. Code: Apache-2.0.

## Limits

It knows little about the world, and repeats what novels, forums and help desks of its text say.
Use it to learn and to test with; do not let it decide about people.
"""


def write_card(
    folder: Path,
    *,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: dict[str, object],
    progress: dict[str, float],
    losses: dict[str, float],
    warm_start_losses: dict[str, float] | None,
) -> None:
    """Write README.md to the model folder; every figure in it comes from this run.

    `losses` and `warm_start_losses` are held-out losses per token by source, of this model and of
    the model it grew from.
    """
    config = model.config
    words = sum(piece.startswith("Ġ") for piece in tokenizer.get_vocab())
    mix = ", ".join(f"{name} {share:g}" for name, share in dict(recipe["mix"]).items())  # type: ignore[call-overload]
    facts = (
        f"Llama architecture, {config.num_hidden_layers} layers, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {model.num_parameters() / 1e6:.1f} M parameters (bfloat16), "
        f"byte-level BPE of {len(tokenizer):,} pieces ({words:,} of them begin a word), "
        f"context {config.max_position_embeddings}, tied embeddings.\n\n"
        f"Trained on {progress['tokens'] / 1e6:.1f} M tokens in {progress['step']:,} steps and "
        f"{progress['seconds'] / 60:.0f} minutes on `{recipe['device']}`, "
        f"in windows of {recipe['length']} tokens; mixture by source: {mix}.\n"
    )
    (folder / "README.md").write_text(
        HEAD
        + facts
        + _loss_table(losses, warm_start_losses)
        + TAIL.format(end=tokenizer.eos_token_id, pad=tokenizer.pad_token_id),
        encoding="utf-8",
    )


def _loss_table(losses: dict[str, float], warm_start_losses: dict[str, float] | None) -> str:
    """Return the held-out losses as a table, beside those of the model grown from if there is one."""
    sources = sorted(losses)
    lines = [
        "\n## Held-out loss per token\n",
        "| | " + " | ".join(sources) + " |",
        "|---" * (len(sources) + 1) + "|",
    ]
    lines.append("| this model | " + " | ".join(f"{losses[s]:.2f}" for s in sources) + " |")
    if warm_start_losses:
        lines.append("| grown from | " + " | ".join(f"{warm_start_losses[s]:.2f}" for s in sources) + " |")
    lines.append("\n`unseen` are kinds of task that were kept out of training as a whole.\n")
    return "\n".join(lines)
