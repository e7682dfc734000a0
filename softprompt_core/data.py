"""A labelled task: rows from anywhere, cleaned, their columns known, split; plain text, no tokens yet."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.sources import Rows, quoted, read_splits, short_name
from softprompt_core.templates import Template, parse_template

TEXT_NAMES = (
    "text", "sentence", "tweet text", "tweet", "message", "content", "input", "review", "question", "comment", "body",
)
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "answer", "output", "y")
MAX_LABELS = 200


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


def load_task(config: TrainConfig) -> Task:
    """The task a config names: read, cleaned, split.

    Raises UserError for anything that cannot be read as labelled text.
    """
    splits = read_splits(config.data)
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
        found = f"only the label {quoted(next(iter(counts)))}" if counts else "no row with both text and label"
        raise UserError(
            f"The column {quoted(label_column)} of {short_name(config.data)} holds {found}; at least two "
            "different labels are needed. Choose another label column or data."
        )
    if len(counts) > MAX_LABELS:
        raise UserError(
            f"The column {quoted(label_column)} of {short_name(config.data)} holds {len(counts)} different labels; "
            f"at most {MAX_LABELS} are allowed. Choose the column that holds the class."
        )
    kept = _complete_splits(kept, label_column, seed=config.split_seed)
    in_train = {r[label_column] for r in kept["train"]}
    if len(in_train) < 2:
        raise UserError(
            f"The training rows of {short_name(config.data)} hold fewer than two labels. Add rows of another label."
        )
    return Task(
        name=short_name(config.data), splits=kept, labels=tuple(sorted(counts)), columns=columns,
        text_column=text_column, label_column=label_column, dropped_rows=dropped,
    )


def template_of(task: Task, template: str) -> Template:
    """The parsed template of a task. Raises UserError when it cannot be used, or would show the label."""
    columns = [c for c in task.columns if c != task.label_column]
    return parse_template(template, columns=columns, answer=task.label_column)


def load_evaluation_task(config: TrainConfig, *, data: str, labels: Sequence[str]) -> Task:
    """Other rows to test a trained prompt on, all in the split `test`, with the labels it was trained for.

    A folder or hub id gives its test split, a single file every row. Columns are the config's where the data
    has them. Raises UserError for labels the prompt does not know.
    """
    splits = read_splits(data)
    rows = splits.get("test") or splits.get("all") or next(iter(splits.values()))
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
        found = f"the labels {', '.join(map(quoted, unknown[:5]))}" if unknown else "no row with text and label"
        raise UserError(
            f"{short_name(data)} holds {found}; the prompt was trained for {', '.join(map(quoted, labels))}. "
            "Give data with those labels."
        )
    return Task(
        name=short_name(data), splits={"test": kept}, labels=tuple(labels), columns=columns,
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
                f"There is no {kind} column {quoted(wanted)}. The columns are {', '.join(map(quoted, columns))}."
            )
    if len(columns) < 2:
        raise UserError(
            f"The data has one column, {quoted(columns[0])}; a text and a label column are needed. "
            "Add a column with the label of each row."
        )
    if text_column is not None and text_column == label_column:
        raise UserError(f"Text and label are both column {quoted(text_column)}. Choose two different columns.")
    sample = rows[::max(1, len(rows) // 500)]       # of the whole file, which may be sorted by label
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
