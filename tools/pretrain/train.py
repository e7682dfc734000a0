"""Pretrain the bundled causal language model: one command from a text folder to a model folder.

python tools/pretrain/train.py --text TEXT --work WORK --out MODEL --minutes 120 [--device cuda]

WORK keeps the token streams, the checkpoint and log.jsonl; running the command again resumes.
MODEL is a complete Hugging Face folder, rewritten at every checkpoint, with a card at the end.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from card import write_card
from checkpoint import load_checkpoint, save_checkpoint
from corpus import split_sources
from keep_out import read_keep_out
from loop import LossOf, Progress, Recipe, held_out_loss, make_loss, make_optimisers, train
from network import build_model, export_model, grow_model
from tokens import Stream, cached_stream, factorise_cooccurrence, train_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from verbalise import verbalised_split

CHECKPOINT_SECONDS = 480


def prepare_streams(
    text: Path, work: Path, *, vocabulary: int, warm_start: Path | None, keep_out: list[Path]
) -> tuple[PreTrainedTokenizerFast, dict[str, Stream], dict[str, Stream]]:
    """Return the tokenizer and the training and held-out streams, each by source name."""
    splits = split_sources(text)
    splits |= verbalised_split(splits, cache=work / "verbalised", keep_out=read_keep_out(keep_out))
    known = warm_start or (work if (work / "tokenizer.json").exists() else None)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(known) if known else train_tokenizer(splits, vocabulary)
    tokenizer.save_pretrained(work)
    training = {
        source: cached_stream(work / f"{source}.tokens", tokenizer, split.train)
        for source, split in splits.items()
        if split.train
    }
    held_out = {
        source: cached_stream(work / f"{source}.held_out.tokens", tokenizer, split.held_out)
        for source, split in splits.items()
    }
    return tokenizer, training, held_out


def parse_arguments() -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder of tasks, dialogues, wiki and novels .jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for token streams, checkpoint and log")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--minutes", type=float, help="training time, resumed runs included")
    parser.add_argument("--tokens", type=int, help="training tokens; with --minutes, whichever ends first")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--warm-start", type=Path, help="model folder to grow from; sets width, heads and vocabulary")
    parser.add_argument("--keep-out", type=Path, nargs="*", default=[], help="CSV files whose sentences stay out")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--mix", default="verbalised=.4,tasks=.07,dialogues=.15,wiki=.08,novels=.3")
    parser.add_argument("--muon-rate", type=float, default=0.015)
    parser.add_argument("--adam-rate", type=float, default=2e-3)
    parser.add_argument("--answer-weight", type=float, default=3.0, help="loss weight of the tokens a task asks for")
    parser.add_argument("--decay", type=float, default=0.4, help="share of the budget spent decaying the rates")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile (no C++ compiler at hand)")
    arguments = parser.parse_args()
    if arguments.minutes is None and arguments.tokens is None:
        parser.error("Give a budget: --minutes, --tokens or both.")
    return arguments


def make_recipe(a: argparse.Namespace) -> Recipe:
    """Return the recipe that the command line asks for."""
    return Recipe(
        minutes=a.minutes,
        tokens=a.tokens,
        device=a.device,
        mix={name: float(share) for name, share in (item.split("=") for item in a.mix.split(","))},
        batch=a.batch,
        length=a.length,
        muon_rate=a.muon_rate,
        adam_rate=a.adam_rate,
        answer_weight=a.answer_weight,
        decay=a.decay,
        warmup_steps=100,
        seed=a.seed,
    )


def start_model(
    a: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, streams: dict[str, Stream]
) -> LlamaForCausalLM:
    """Return the model before its first step: grown from a smaller one, or with factorised embeddings."""
    if a.warm_start:
        return grow_model(a.warm_start, a.layers).to(a.device)
    embeddings = factorise_cooccurrence((s.ids for s in streams.values()), len(tokenizer), a.width)
    ends = {"end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return build_model(embeddings, layers=a.layers, heads=a.heads, context=512, **ends).to(a.device)


def measure_once(work: Path, loss_of: LossOf, held_out: dict[str, Stream], recipe: Recipe) -> dict[str, float]:
    """Return the held-out losses before the first step, read back from WORK when a run resumes."""
    path = work / "grown_from.json"
    if not path.exists():
        path.write_text(json.dumps(held_out_loss(loss_of, held_out, recipe, windows=128)), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def append_log(path: Path, **row: object) -> None:
    """Append one JSON line to the log, and show it."""
    line = json.dumps(row)
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def main() -> None:
    """Prepare the text, train with checkpoints, then measure and write the card."""
    a = parse_arguments()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(a.seed)
    torch.set_float32_matmul_precision("high")
    recipe, log = make_recipe(a), a.work / "log.jsonl"
    tokenizer, streams, held_out = prepare_streams(
        a.text, a.work, vocabulary=a.vocab, warm_start=a.warm_start, keep_out=a.keep_out
    )
    model = start_model(a, tokenizer, streams).train()
    loss_of = make_loss(model, a.device)
    before = measure_once(a.work, loss_of, held_out, recipe) if a.warm_start else None
    optimisers = make_optimisers(model, recipe)
    progress = Progress(**load_checkpoint(a.work, model, optimisers))
    if not a.no_compile:
        loss_of = torch.compile(loss_of)

    def checkpoint() -> None:
        save_checkpoint(a.work, model, optimisers, asdict(progress))
        tokenizer.save_pretrained(a.out)
        export_model(model, a.out)

    sizes = {source: len(stream.ids) for source, stream in streams.items()}
    append_log(log, recipe=asdict(recipe), parameters=model.num_parameters(), tokens_by_source=sizes)
    saved, average = time.monotonic(), None
    steps = train(model, optimisers, streams, loss_of=loss_of, recipe=recipe, progress=progress)
    for progress, loss in steps:
        average = loss if average is None else 0.95 * average + 0.05 * loss
        if progress.step % 20 == 0:
            append_log(log, **asdict(progress), loss=round(average, 3))
        if progress.step % 500 == 0:
            append_log(log, step=progress.step, held_out=held_out_loss(loss_of, held_out, recipe, windows=32))
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint()
            saved = time.monotonic()
    checkpoint()
    losses = held_out_loss(loss_of, held_out, recipe, windows=256)
    append_log(log, step=progress.step, held_out=losses, grown_from=before, finished=True)
    write_card(
        a.out,
        model=model,
        tokenizer=tokenizer,
        recipe=asdict(recipe),
        progress=asdict(progress),
        losses=losses,
        warm_start_losses=before,
    )


if __name__ == "__main__":
    main()
