"""Labelled text: file, folder, bundled name or hub id → rows → template → token ids.

No torch and no tokenizer is needed to read a task; tokenising takes the tokenizer as an argument.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.templates import Template, parse_template
from softprompt_core.visible import token_text

BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "data"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SPLIT_FILES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
TEXT_NAMES = (
    "text", "sentence", "tweet text", "tweet", "message", "content", "input", "review", "question", "comment", "body",
)
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "answer", "output", "y")
MAX_LABELS = 200
MIN_TEXT_TOKENS = 8

Rows = list[dict[str, str]]
Role = Literal["virtual", "template", "text", "label"]


@dataclass(frozen=True)
class Task:
    """Rows of a classification task as text, split; every row has a text and a label."""

    name: str
    splits: dict[str, Rows]
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    text_column: str
    label_column: str
    dropped_rows: int

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything in the task, splits and order included."""
        document = [self.text_column, self.label_column, self.splits]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def label_counts(self, split: str | None = None) -> dict[str, int]:
        """Rows per label, most frequent first; of one split or of all."""
        rows = self.splits[split] if split else [r for rows in self.splits.values() for r in rows]
        return dict(Counter(row[self.label_column] for row in rows).most_common())


@dataclass(frozen=True)
class Example:
    """One row as token ids: the rendered template, and the number of its label."""

    context: tuple[int, ...]
    label: int


@dataclass(frozen=True)
class TokenisedTask:
    """A task in one model's tokens; label_ids: a space, the label's text and EOS, per label."""

    task: Task
    splits: dict[str, list[Example]]
    label_ids: tuple[tuple[int, ...], ...]
    cut_rows: int

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest row with the longest label, EOS included, without a prompt."""
        longest = max(len(e.context) for rows in self.splits.values() for e in rows)
        return longest + max(len(ids) for ids in self.label_ids)


# ------------------------------------------------------------------- reading


def list_bundled() -> list[str]:
    """Names of the tasks that come with the program."""
    if not BUNDLED_FOLDER.is_dir():
        return []
    return sorted(p.name for p in BUNDLED_FOLDER.iterdir() if (p / "train.csv").is_file())


def load_task(config: TrainConfig) -> Task:
    """The task a config names: read, cleaned, split.

    Raises UserError for anything that cannot be read as labelled text.
    """
    splits = _read_splits(config.data)
    columns = tuple(dict.fromkeys(c for rows in splits.values() for c in (rows[0] if rows else ())))
    every = [row for rows in splits.values() for row in rows]
    text_column, label_column = choose_columns(
        columns, every, text_column=config.text_column, label_column=config.label_column
    )
    kept = {
        split: [r for r in rows if r.get(text_column, "").strip() and r.get(label_column, "").strip()]
        for split, rows in splits.items()
    }
    dropped = len(every) - sum(len(rows) for rows in kept.values())
    kept = {
        split: [{c: r.get(c, "") for c in columns} | {label_column: r[label_column].strip()} for r in rows]
        for split, rows in kept.items()
    }
    counts = Counter(r[label_column] for rows in kept.values() for r in rows)
    if len(counts) < 2:
        found = f"only the label {_quote(next(iter(counts)))}" if counts else "no row with both text and label"
        raise UserError(
            f"The column {_quote(label_column)} of {_short_name(config.data)} holds {found}; at least two "
            "different labels are needed. Choose another label column or data."
        )
    if len(counts) > MAX_LABELS:
        raise UserError(
            f"The column {_quote(label_column)} of {_short_name(config.data)} holds {len(counts)} different labels; "
            f"at most {MAX_LABELS} are allowed. Choose the column that holds the class."
        )
    kept = _complete_splits(kept, label_column, seed=config.split_seed)
    in_train = {r[label_column] for r in kept["train"]}
    if len(in_train) < 2:
        raise UserError(
            f"The training rows of {_short_name(config.data)} hold fewer than two labels. Add rows of another label."
        )
    return Task(
        name=_short_name(config.data), splits=kept, labels=tuple(sorted(counts)), columns=columns,
        text_column=text_column, label_column=label_column, dropped_rows=dropped,
    )


def load_evaluation_task(config: TrainConfig, *, data: str, labels: Sequence[str]) -> Task:
    """Other rows to test a trained prompt on, all in the split `test`, with the labels it was trained for.

    A folder or hub id gives its test split, a single file every row. Columns are the config's where the data
    has them. Raises UserError for labels the prompt does not know.
    """
    splits = _read_splits(data)
    rows = splits.get("test") or splits.get("all") or splits["train"]
    columns = tuple(rows[0])
    wanted = {c: c if c in columns else None for c in (config.text_column, config.label_column) if c}
    text_column, label_column = choose_columns(
        columns, rows, text_column=wanted.get(config.text_column or ""),
        label_column=wanted.get(config.label_column or ""),
    )
    kept = [r for r in rows if r.get(text_column, "").strip() and r.get(label_column, "").strip()]
    kept = [r | {label_column: r[label_column].strip()} for r in kept]
    unknown = sorted({r[label_column] for r in kept} - set(labels))
    if unknown or not kept:
        found = f"the labels {', '.join(map(_quote, unknown[:5]))}" if unknown else "no row with text and label"
        raise UserError(
            f"{_short_name(data)} holds {found}; the prompt was trained for {', '.join(map(_quote, labels))}. "
            "Give data with those labels."
        )
    return Task(
        name=_short_name(data), splits={"test": kept}, labels=tuple(labels), columns=columns,
        text_column=text_column, label_column=label_column, dropped_rows=len(rows) - len(kept),
    )


def choose_columns(
    columns: Sequence[str], rows: Rows, *, text_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """(text column, label column): the named ones, else guessed from names and contents.

    Raises UserError when a named one is not there or there is only one column.
    """
    for kind, wanted in (("text", text_column), ("label", label_column)):
        if wanted is not None and wanted not in columns:
            raise UserError(
                f"There is no {kind} column {_quote(wanted)}. The columns are {', '.join(map(_quote, columns))}."
            )
    if len(columns) < 2:
        raise UserError(
            f"The data has one column, {_quote(columns[0])}; a text and a label column are needed. "
            "Add a column with the label of each row."
        )
    if text_column is not None and text_column == label_column:
        raise UserError(f"Text and label are both column {_quote(text_column)}. Choose two different columns.")
    sample = rows[:500]
    distinct = {c: len({r.get(c, "") for r in sample}) for c in columns}
    length = {c: sum(len(r.get(c, "")) for r in sample) for c in columns}
    if label_column is None:
        rest = [c for c in columns if c != text_column]
        label_column = _by_name(rest, LABEL_NAMES) or min(
            rest, key=lambda c: (distinct[c] < 2, distinct[c], length[c])
        )
    if text_column is None:
        rest = [c for c in columns if c != label_column]
        text_column = _by_name(rest, TEXT_NAMES) or max(rest, key=lambda c: length[c])
    return text_column, label_column


def default_prompt_text(task: Task) -> str:
    """The hand-written prompt used where the user gives none: it names the labels."""
    named = list(task.labels[:12])
    listed = ", ".join(named[:-1]) + f" or {named[-1]}"
    return f"Classify the text as {listed}:"


def _read_splits(name: str) -> dict[str, Rows]:
    if name in list_bundled():
        return _read_folder(BUNDLED_FOLDER / name)
    path = Path(name).expanduser()
    if os.path.isdir(path):     # unlike Path.is_dir, no error for a name too long to be one
        return _read_folder(path)
    if os.path.isfile(path):
        return {"all": read_rows(path)}
    if path.suffix.lower() in SUFFIXES or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"There is no file or folder {_quote(name)}. Give a CSV, TSV or JSONL file, a folder with train and test "
            f"files, or one of {', '.join(list_bundled())}."
        )
    if "/" not in name:
        raise UserError(
            f"There is no data called {_quote(name)}. Bundled are {', '.join(list_bundled())}; or give a CSV, TSV or "
            "JSONL file, a folder with train and test files, or a hub id such as 'owner/name'."
        )
    return _read_hub(name)


def _read_folder(folder: Path) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for split, stems in SPLIT_FILES.items():
        for stem in stems:
            for suffix in SUFFIXES:
                if split not in found and (folder / f"{stem}{suffix}").is_file():
                    found[split] = read_rows(folder / f"{stem}{suffix}")
    if "train" not in found:
        raise UserError(
            f"The folder {str(folder)!r} has no train file. It needs train.csv (or .tsv, .jsonl), and may "
            "have validation and test files beside it."
        )
    return found


def _read_hub(name: str) -> dict[str, Rows]:
    import datasets

    repository, _, part = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, part or None)
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:160]
        raise UserError(
            f"The data {name!r} could not be loaded from the hub ({reason}). Check the id and the network, or give "
            "a CSV, TSV or JSONL file."
        ) from None
    found: dict[str, Rows] = {}
    for split, stems in SPLIT_FILES.items():
        for stem in stems:
            if split not in found and stem in loaded:
                found[split] = _hub_rows(loaded[stem])
    return found or {"all": _hub_rows(next(iter(loaded.values())))}


def _hub_rows(split: Any) -> Rows:
    names = {c: f.names for c, f in split.features.items() if hasattr(f, "names")}
    return [
        {c: names[c][v] if c in names and isinstance(v, int) and v >= 0 else _as_text(v) for c, v in row.items()}
        for row in split
    ]


def read_rows(path: Path, *, is_labelled: bool = True) -> Rows:
    """The rows of a CSV, TSV or JSONL file, every value as text; unlabelled ones may have one column.

    Raises UserError for another kind of file, an empty one, wrong encoding or a broken row.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path.name!r} is no CSV, TSV or JSONL file. Save the table as CSV (UTF-8) and try again.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path.name!r} cannot be read ({error.strerror}). Check that it is there.") from None
    if not raw.strip():
        raise UserError(f"{path.name!r} is empty. It needs a header line and rows with a text and a label.")
    is_utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    if b"\x00" in raw[:4096] and not is_utf16:
        raise UserError(f"{path.name!r} is not a text file but binary data. Save the table as CSV (UTF-8).")
    try:
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name!r} is not in UTF-8 (the byte at position {error.start} is no UTF-8 text). Save it again with "
            "encoding UTF-8."
        ) from None
    text = text.replace("\x00", "")
    if not text.strip(" \t\r\n,;|\ufeff\u3000"):
        raise UserError(f"{path.name!r} is empty. It needs a header line and rows with a text and a label.")
    if suffix in (".jsonl", ".ndjson"):
        return _read_jsonl(text, path.name)
    return _read_table(text, path.name, suffix, is_labelled=is_labelled)


def _read_table(text: str, name: str, suffix: str, *, is_labelled: bool) -> Rows:
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "\t" if suffix == ".tsv" else max(",;\t|", key=header.count) if "," not in header else ","
    rows, number = [], 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [c.strip() for c in next((row for row in reader if any(v.strip() for v in row)), [""])]
        _check_header(columns, name, is_labelled=is_labelled)
        for values in reader:
            number = reader.line_num
            if not any(v.strip() for v in values):
                continue
            if len(values) > len(columns) or len(values) < min(2, len(columns)):
                raise UserError(
                    f"Line {number} of {name!r} has {len(values)} values, the header has {len(columns)}. If the text "
                    "contains the separator, put it in double quotes."
                )
            rows.append(dict(zip(columns, [*values, *[""] * (len(columns) - len(values))], strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{name!r} is no readable table (near line {number + 1}: {error}). Save it as CSV with quoted texts."
        ) from None
    if not rows:
        raise UserError(f"{name!r} has a header and no rows. Add rows with a text and a label.")
    return rows


def _check_header(columns: list[str], name: str, *, is_labelled: bool) -> None:
    if len(columns) < 2 and is_labelled:
        raise UserError(
            f"{name!r} has one column, {_quote(columns[0])}; a text and a label column are needed. Separate them by "
            "commas and name both in the first line."
        )
    if "" in columns or len(set(columns)) != len(columns):
        raise UserError(
            f"The first line of {name!r} must name every column once; it reads {_quote(', '.join(columns))}."
        )


def _read_jsonl(text: str, name: str) -> Rows:
    rows: Rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(
                f'Line {number} of {name!r} is not JSON. Each line must look like {{"text": "…", "label": "…"}}.'
            ) from None
        if not isinstance(value, dict) or not value:
            raise UserError(
                f'Line {number} of {name!r} is no object. Each line must look like {{"text": "…", "label": "…"}}.'
            )
        rows.append({_as_text(k): _as_text(v) for k, v in value.items()})
    columns = list(dict.fromkeys(c for row in rows for c in row))
    return [{c: row.get(c, "") for c in columns} for row in rows]


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")      # JSON can hold half a character: \ud800


def _complete_splits(splits: dict[str, Rows], label_column: str, *, seed: int) -> dict[str, Rows]:
    """Train, validation and test, with what is missing taken from train, stratified by label.

    Raises UserError when there are too few rows for three splits.
    """
    rest = splits.get("train") or splits.get("all") or []
    shares = {
        split: 0.15 for split in ("validation", "test") if not splits.get(split)
    }
    taken: dict[str, list[int]] = {split: [] for split in shares}
    rng = np.random.default_rng(seed)
    by_label: dict[str, list[int]] = {}
    for i, row in enumerate(rest):
        by_label.setdefault(row[label_column], []).append(i)
    for label in sorted(by_label):
        order = rng.permutation(by_label[label]).tolist()
        for split, share in shares.items():
            count = min(round(len(by_label[label]) * share), max(0, len(order) - 1))
            taken[split] += order[:count]
            order = order[count:]
    gone = {i for indexes in taken.values() for i in indexes}
    done = {"train": [row for i, row in enumerate(rest) if i not in gone]}
    for split in ("validation", "test"):
        done[split] = splits[split] if split not in shares else [rest[i] for i in sorted(taken[split])]
    empty = [split for split, rows in done.items() if not rows]
    if empty:
        raise UserError(
            f"{len(rest)} rows are too few to split into train, validation and test ({' and '.join(empty)} would be "
            "empty). Give at least 8 rows of each label, or separate files."
        )
    return done


def _by_name(columns: Sequence[str], names: Sequence[str]) -> str | None:
    lowered = {c.lower().strip(): c for c in reversed(columns)}
    return next((lowered[n] for n in names if n in lowered), None)


def _short_name(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name or name


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


# ---------------------------------------------------------------- tokenising


def tokenise(task: Task, tokenizer: Any, config: TrainConfig, *, context: int | None) -> TokenisedTask:
    """The task in a model's tokens; texts too long lose their left end, never template or label.

    `context` is the most tokens the model can read, None when it has no limit. Raises UserError when the
    virtual tokens, the template and the label leave no room for text.
    """
    template = parse_template(config.template, columns=task.columns)
    label_ids = tuple(label_token_ids(label, tokenizer) for label in task.labels)
    room = _room(config, context, longest_label=max(map(len, label_ids)))
    number = {label: i for i, label in enumerate(task.labels)}
    splits, cut_rows = {}, 0
    for split, rows in task.splits.items():
        encoded = _encode(rows, template, tokenizer, text_column=task.text_column, room=room)
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
    ids = tokenizer.encode(" " + label, add_special_tokens=False)
    if not ids:
        raise UserError(f"The label {_quote(label)} has no tokens in this model's vocabulary. Rename the label.")
    return (*ids, tokenizer.eos_token_id)


def text_token_ids(text: str, tokenizer: Any) -> list[int]:
    """A text's ids without special tokens."""
    return tokenizer.encode(text, add_special_tokens=False)


def _room(config: TrainConfig, context: int | None, *, longest_label: int) -> int:
    """Tokens left for template and text."""
    limit = min(config.max_tokens, (context or 10**9) - config.virtual_tokens)
    room = limit - longest_label
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
    rows: Rows, template: Template, tokenizer: Any, *, text_column: str, room: int
) -> list[tuple[tuple[int, ...], bool, list[bool]]]:
    """Per row: ids, whether it was cut, and for each token whether it comes from a column."""
    if not rows:
        return []
    rendered = [template.render(row, text_column=text_column) for row in rows]
    coded = tokenizer([text for text, _ in rendered], return_offsets_mapping=True, add_special_tokens=True)
    ends = {i for i in (tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)) if i is not None}
    out = []
    for ids, offsets, (_, spans) in zip(coded["input_ids"], coded["offset_mapping"], rendered, strict=True):
        if len(ids) > 1 and ids[-1] in ends and offsets[-1][0] == offsets[-1][1]:
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
                    "template and text together. Shorten the template or allow longer rows."
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
    tokens = tokenise(task, tokenizer, config, context=context)
    template = parse_template(config.template, columns=task.columns)
    room = _room(config, context, longest_label=max(map(len, tokens.label_ids)))
    shown = task.splits["train"][:rows]
    encoded = _encode(shown, template, tokenizer, text_column=task.text_column, room=room)
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
