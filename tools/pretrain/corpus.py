"""Reading the pretraining text, and the split into training and held-out documents."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SOURCES = ("tasks", "dialogues", "wiki", "novels")
HELD_OUT_CHARACTERS = 300_000
PROFANE = re.compile(
    r"\b(fuck\w*|shit\w*|cunt\w*|bitch\w*|nigg\w*|fag\w*|whore\w*|slut\w*|dick\w*|cock\w*|pussy|retard\w*|rape\w*"
    r"|asshole\w*|bastard\w*|porn\w*|tits|wank\w*|jizz|cum)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Document:
    """One training document; `answers` are the (start, end) characters that a task asks for."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Split:
    """The documents of one source: those to train on, and those only ever measured."""

    train: list[Document]
    held_out: list[Document]


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a JSONL file whose lines are strings or {"text", "answers"} objects."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if isinstance(row, str):
                yield Document(row)
            else:
                yield Document(row["text"], tuple((start, end) for start, end in row["answers"]))


def write_documents(path: Path, documents: list[Document]) -> None:
    """Write documents as JSONL, aside and then renamed, so that a half-written file is never read."""
    aside = path.with_suffix(".partial")
    with aside.open("w", encoding="utf-8") as file:
        for document in documents:
            row = {"text": document.text, "answers": document.answers} if document.answers else document.text
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.rename(path)


def split_sources(text: Path) -> dict[str, Split]:
    """Return {source: Split} of the four text files, shuffled by document with a fixed seed.

    One generator shuffles the sources in order, as the first model's recipe did: the tail
    held out here lies inside the tail held out there, so both models may be compared on it.
    """
    rng = np.random.default_rng(0)
    splits = {}
    for source in SOURCES:
        documents = list(read_documents(text / f"{source}.jsonl"))
        rng.shuffle(documents)  # type: ignore[arg-type]
        splits[source] = hold_out_tail(documents)
    return splits


def hold_out_tail(documents: list[Document], characters: int = HELD_OUT_CHARACTERS) -> Split:
    """Return a Split that holds out the last `characters` of text, in whole documents, at most a tenth."""
    left = min(characters, sum(len(document.text) for document in documents) // 10)
    cut = len(documents)
    while cut > 0 and left > 0:
        cut -= 1
        left -= len(documents[cut].text)
    return Split(documents[:cut], documents[cut:])
