"""Rows of text from wherever a user has them: CSV, TSV, JSONL, a folder, a bundled name, the hub."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from softprompt_core.config import BUNDLED_MODEL, TrainConfig
from softprompt_core.errors import UserError

BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "data"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SPLIT_FILES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}

Rows = list[dict[str, str]]


def list_bundled() -> list[str]:
    """Names of the tasks that come with the program."""
    if not BUNDLED_FOLDER.is_dir():
        return []
    return sorted(p.name for p in BUNDLED_FOLDER.iterdir() if (p / "train.csv").is_file())


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same settings with local folders and files named in full, so that they mean the same from anywhere."""
    changes = {
        key: os.path.abspath(os.path.expanduser(value))
        for key, value, ours in (("model", config.model, [BUNDLED_MODEL]), ("data", config.data, list_bundled()))
        if value not in ours and os.path.exists(os.path.expanduser(value))
    }
    return config.model_copy(update=changes)


def read_splits(name: str) -> dict[str, Rows]:
    """Split → rows of the named data; a single file gives the one split `all`.

    Raises UserError when there is no such data or it cannot be read.
    """
    if name in list_bundled():
        return _read_folder(BUNDLED_FOLDER / name)
    path = Path(name).expanduser()
    if os.path.isdir(path):     # unlike Path.is_dir, no error for a name too long to be one
        return _read_folder(path)
    if os.path.isfile(path):
        return {"all": read_rows(path)}
    if path.suffix.lower() in SUFFIXES or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"There is no file or folder {quoted(name)}. Give a CSV, TSV or JSONL file, a folder with train and test "
            f"files, or one of {', '.join(list_bundled())}."
        )
    if "/" not in name:
        raise UserError(
            f"There is no data called {quoted(name)}. Bundled are {', '.join(list_bundled())}; or give a CSV, TSV or "
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


    def value(column: str, given: Any) -> str:
        if column in names and isinstance(given, int):
            return names[column][given] if given >= 0 else ""       # −1 is the hub's way to say unlabelled
        return _as_text(given)

    return [{c: value(c, v) for c, v in row.items()} for row in split]


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
        has_row_numbers = columns[0] == "" and len(columns) > 2      # what pandas' to_csv writes unasked
        first = 1 if has_row_numbers else 0
        columns = columns[first:]
        _check_header(columns, name, is_labelled=is_labelled)
        for values in reader:
            values = values[first:]
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
            f"{name!r} has one column, {quoted(columns[0])}; a text and a label column are needed. Separate them by "
            "commas and name both in the first line."
        )
    if "" in columns or len(set(columns)) != len(columns):
        raise UserError(
            f"The first line of {name!r} must name every column once; it reads {quoted(', '.join(columns))}."
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


def short_name(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name or name


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
