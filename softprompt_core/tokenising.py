"""A task in one model's tokens: what the model is given, and what a user is shown of it beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softprompt_core.config import TrainConfig
from softprompt_core.data import Task, load_task, template_of
from softprompt_core.errors import UserError
from softprompt_core.models import read_is_encoder_decoder
from softprompt_core.sources import Rows, quoted
from softprompt_core.templates import Template
from softprompt_core.visible import token_text

MIN_TEXT_TOKENS = 8
Role = Literal["virtual", "template", "text", "label"]


@dataclass(frozen=True)
class Example:
    """One row as token ids: the rendered template, and the number of its label."""

    context: tuple[int, ...]
    label: int


@dataclass(frozen=True)
class TokenisedTask:
    """A task in one model's tokens; label_ids: the label's text and EOS, per label."""

    task: Task
    splits: dict[str, list[Example]]
    label_ids: tuple[tuple[int, ...], ...]
    cut_rows: int

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest row with the longest label, EOS included, without a prompt."""
        longest = max(len(e.context) for rows in self.splits.values() for e in rows)
        return longest + max(len(ids) for ids in self.label_ids)

    @property
    def repeated_rows(self) -> int:
        """Rows outside train that give the model the very text of a row in it."""
        known = {e.context for e in self.splits.get("train", ())}
        return sum(e.context in known for split, rows in self.splits.items() if split != "train" for e in rows)


def tokenise(
    task: Task, tokenizer: Any, config: TrainConfig, *, context: int | None, is_encoder_decoder: bool | None = None
) -> TokenisedTask:
    """The task in a model's tokens; texts too long lose their left end, never template or label.

    A causal model reads text and label in one line: the text as it stands in the middle of a line, without an end;
    the label after a space. The encoder of an encoder–decoder reads the text and nothing else, whole as its tokenizer
    writes it: T5 was pretrained on texts that end in EOS, BART on texts between its start and end tokens; the label
    is a text of its own (`target_token_ids`).

    `context` is the most tokens the model can read, None when it has no limit; which kind of model it is, where
    that is not given, the config.json of the one that the settings name tells. Raises UserError when the virtual
    tokens, the template and the label leave no room for text.
    """
    if is_encoder_decoder is None:
        is_encoder_decoder = read_is_encoder_decoder(config.model)
    template = template_of(task, config.template)
    write = target_token_ids if is_encoder_decoder else label_token_ids
    label_ids = tuple(write(label, tokenizer) for label in task.labels)
    _check_labels_differ(task.labels, label_ids)
    longest_label = max(map(len, label_ids))
    if is_encoder_decoder and context is not None and longest_label > context:
        raise UserError(f"A label of {longest_label} tokens is more than the model's {context}. Use shorter labels.")
    room = _room(config, context, longest_label=0 if is_encoder_decoder else longest_label)
    number = {label: i for i, label in enumerate(task.labels)}
    splits, cut_rows = {}, 0
    for split, rows in task.splits.items():
        encoded = _encode(
            rows, template, tokenizer, text_column=task.text_column, room=room, is_open=not is_encoder_decoder
        )
        cut_rows += sum(was_cut for _, was_cut, _ in encoded)
        splits[split] = [
            Example(ids, number[row[task.label_column]])
            for row, (ids, _, _) in zip(rows, encoded, strict=True)
        ]
    return TokenisedTask(task=task, splits=splits, label_ids=label_ids, cut_rows=cut_rows)


def label_token_ids(label: str, tokenizer: Any) -> tuple[int, ...]:
    """A space, the label's text, then EOS, as ids. Raises UserError when the tokenizer has no EOS."""
    if tokenizer.eos_token_id is None:
        raise UserError("The model's tokenizer has no end-of-text token, which ends every label. Choose another model.")
    ids = _after_text(" " + label, tokenizer)
    if not ids:
        raise UserError(f"The label {quoted(label)} has no tokens in this model's vocabulary. Rename the label.")
    return (*ids, tokenizer.eos_token_id)


def target_token_ids(label: str, tokenizer: Any) -> tuple[int, ...]:
    """The label as its tokenizer writes what a decoder is to say, as ids.

    T5 writes the label and EOS, BART its start token before them, as it was pretrained to; EOS is added where a
    tokenizer writes none. Raises UserError when it has no EOS.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("The model's tokenizer has no end-of-text token, which ends every label. Choose another model.")
    ids = tokenizer(text_target=label)["input_ids"]
    if not set(ids) - set(tokenizer.all_special_ids):
        raise UserError(f"The label {quoted(label)} has no tokens in this model's vocabulary. Rename the label.")
    return (*ids,) if tokenizer.eos_token_id in ids else (*ids, tokenizer.eos_token_id)


def _after_text(text: str, tokenizer: Any) -> list[int]:
    """A text's ids where other text stands before it.

    Some sentencepiece tokenizers (Llama 2) put a space of their own before everything they are given alone,
    which would make two of the label's one.
    """
    alone = tokenizer.encode(text, add_special_tokens=False)
    lead = tokenizer.encode("x", add_special_tokens=False)
    both = tokenizer.encode("x" + text, add_special_tokens=False)
    return both[len(lead):] if lead and both[:len(lead)] == lead else alone


def _check_labels_differ(labels: Sequence[str], label_ids: Sequence[tuple[int, ...]]) -> None:
    first: dict[tuple[int, ...], str] = {}
    for label, ids in zip(labels, label_ids, strict=True):
        if first.setdefault(ids, label) != label:
            raise UserError(
                f"The labels {quoted(first[ids])} and {quoted(label)} are the same tokens in this model's vocabulary, "
                "so it cannot tell them apart. Rename one of them."
            )


def text_token_ids(text: str, tokenizer: Any) -> list[int]:
    """A text's ids without special tokens."""
    return tokenizer.encode(text, add_special_tokens=False)


def longest_row(config: TrainConfig, context: int | None) -> int:
    """Tokens that a row may have, label and all but the prompt; PEFT's `max_length`."""
    return min(config.max_tokens, (context or 10**9) - config.virtual_tokens)


def _room(config: TrainConfig, context: int | None, *, longest_label: int) -> int:
    """Tokens left for template and text."""
    room = longest_row(config, context) - longest_label
    if room < MIN_TEXT_TOKENS:
        if context and context - config.virtual_tokens < config.max_tokens:
            most = context - longest_label - MIN_TEXT_TOKENS
            raise UserError(
                f"{config.virtual_tokens} virtual tokens leave no room for text: the model reads {context} tokens "
                f"at most. Use at most {max(1, most - 24)} virtual tokens."
            )
        raise UserError(
            f"A longest row of {config.max_tokens} tokens leaves no room beside a label of {longest_label} tokens. "
            f"Allow at least {longest_label + 32}."
        )
    return room


def _encode(
    rows: Rows, template: Template, tokenizer: Any, *, text_column: str, room: int, is_open: bool
) -> list[tuple[tuple[int, ...], bool, list[bool]]]:
    """Per row: ids, whether it was cut, and for each token whether it comes from a column.

    is_open: more follows in the same line, so a text does not end in EOS.
    """
    if not rows:
        return []
    if not tokenizer.is_fast:
        raise UserError(
            "The model's tokenizer cannot say where its tokens stand in the text (it has no tokenizer.json). "
            "Choose a model with a fast tokenizer."
        )
    rendered = [template.render(row, text_column=text_column) for row in rows]
    coded = tokenizer([text for text, _ in rendered], return_offsets_mapping=True, add_special_tokens=True)
    ends = {i for i in (tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)) if i is not None}
    out = []
    for ids, offsets, (_, spans) in zip(coded["input_ids"], coded["offset_mapping"], rendered, strict=True):
        if is_open and len(ids) > 1 and ids[-1] in ends and offsets[-1][0] == offsets[-1][1]:
            ids, offsets = ids[:-1], offsets[:-1]      # some tokenizers end every text; the label comes first
        from_column = [any(s < e and a < e and b > s for s, e, _ in spans) for a, b in offsets]
        excess = len(ids) - room
        keep = [True] * len(ids)
        if excess > 0:
            start, end = _cut_span(spans)
            cuttable = [i for i, (a, b) in enumerate(offsets) if a >= start and b <= end and b > a]
            if len(cuttable) < excess + 1:
                raise UserError(
                    f"The template and its other columns take {len(ids) - len(cuttable)} tokens; {room} are there for "
                    "template and text together. Shorten the template, allow longer rows, or use fewer virtual tokens."
                )
            for i in cuttable[:excess]:
                keep[i] = False
        out.append((
            tuple(i for i, k in zip(ids, keep, strict=True) if k),
            excess > 0,
            [f for f, k in zip(from_column, keep, strict=True) if k],
        ))
    return out


def _cut_span(spans: list[tuple[int, int, bool]]) -> tuple[int, int]:
    texts = [s for s in spans if s[2]] or spans
    start, end, _ = max(texts, key=lambda s: s[1] - s[0])
    return start, end


# ------------------------------------------------------------------- preview


@dataclass(frozen=True)
class PreviewToken:
    """One position of a rendered row; text is made visible, never markup."""

    text: str
    role: Role


@dataclass(frozen=True)
class Preview:
    """What the model will be given, before anything trains; lengths in tokens, prompt and label included."""

    rows: list[list[PreviewToken]]
    split_sizes: dict[str, int]
    label_counts: dict[str, int]
    columns: tuple[str, ...]
    text_column: str
    label_column: str
    dropped_rows: int
    cut_rows: int
    median_tokens: int
    longest_tokens: int


def preview(config: TrainConfig, tokenizer: Any, *, rows: int = 3, context: int | None = None) -> Preview:
    """The first training rows token by token, with the counts of what will be dropped or cut.

    Raises UserError for everything that would stop training for the data's sake.
    """
    task = load_task(config)
    is_encoder_decoder = read_is_encoder_decoder(config.model)
    tokens = tokenise(task, tokenizer, config, context=context, is_encoder_decoder=is_encoder_decoder)
    template = template_of(task, config.template)
    room = _room(config, context, longest_label=0 if is_encoder_decoder else max(map(len, tokens.label_ids)))
    shown = task.splits["train"][:rows]
    encoded = _encode(
        shown, template, tokenizer, text_column=task.text_column, room=room, is_open=not is_encoder_decoder
    )
    out = []
    for example, (ids, _, from_column) in zip(tokens.splits["train"], encoded, strict=False):
        line = [PreviewToken(f"P{i + 1}", "virtual") for i in range(config.virtual_tokens)]
        line += [
            PreviewToken(token_text(tokenizer, i), "text" if inside else "template")
            for i, inside in zip(ids, from_column, strict=True)
        ]
        line += [PreviewToken(token_text(tokenizer, i), "label") for i in tokens.label_ids[example.label]]
        out.append(line)
    lengths = sorted(
        len(e.context) + len(tokens.label_ids[e.label]) + config.virtual_tokens
        for split in tokens.splits.values() for e in split
    )
    return Preview(
        rows=out,
        split_sizes={split: len(r) for split, r in task.splits.items()},
        label_counts=task.label_counts(),
        columns=task.columns, text_column=task.text_column, label_column=task.label_column,
        dropped_rows=task.dropped_rows, cut_rows=tokens.cut_rows,
        median_tokens=lengths[len(lengths) // 2], longest_tokens=lengths[-1],
    )
