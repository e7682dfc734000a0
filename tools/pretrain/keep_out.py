"""Sentences that must stay out of the task documents: those that the project measures on, and near copies of them."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

COMMON_WORDS = 40
NEAR = 0.6


@dataclass(frozen=True)
class KeepOut:
    """Sentences to keep out: `normalised` for exact comparison, `word_sets` for near copies."""

    normalised: frozenset[str] = frozenset()
    word_sets: tuple[frozenset[str], ...] = ()


def read_keep_out(paths: Iterable[Path]) -> KeepOut:
    """Return what the cells of CSV files keep out; cells of ten letters or fewer are labels and numbers."""
    cells: dict[str, str] = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            cells |= {normalise(cell): cell for row in csv.reader(file) for cell in row}
    kept = {key: cell for key, cell in cells.items() if len(key) > 10}
    return KeepOut(frozenset(kept), tuple(word_set(cell) for cell in kept.values()))


def normalise(text: str) -> str:
    """Return the letters and digits of a text, lower case: equal for two spellings of one sentence."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text, lower case."""
    return frozenset(re.findall(r"[a-z0-9']+", text.lower()))


def near_copies(texts: Sequence[str], keep_out: KeepOut, *, near: float = NEAR) -> list[bool]:
    """Return for each text whether it shares `near` of its words (Jaccard) with a sentence to keep out.

    The commonest words of the sentences do not count: every question has its "what is the".
    """
    uses = Counter(word for words in keep_out.word_sets for word in words)
    common = {word for word, _ in uses.most_common(COMMON_WORDS)} if len(keep_out.word_sets) > COMMON_WORDS else set()
    column = {word: i for i, word in enumerate(word for word in uses if word not in common)}
    sentences = _indicator([words - common for words in keep_out.word_sets], column)
    sizes = np.array([len(words - common) for words in keep_out.word_sets])
    result: list[bool] = []
    for first in range(0, len(texts), 5_000):  # in parts: the table of overlaps is large
        sets = [word_set(text) - common for text in texts[first : first + 5_000]]
        overlap = (_indicator(sets, column) @ sentences.T).tocoo()
        own = np.array([len(words) for words in sets])
        share = overlap.data / (own[overlap.row] + sizes[overlap.col] - overlap.data)
        is_near = np.zeros(len(sets), dtype=bool)
        is_near[overlap.row[share >= near]] = True
        result += is_near.tolist()
    return result


def _indicator(sets: Sequence[frozenset[str]], column: dict[str, int]) -> csr_matrix:
    """Return a [sets, words] matrix with 1 where a set holds a word."""
    pairs = [(row, column[word]) for row, words in enumerate(sets) for word in words if word in column]
    rows, columns = ([pair[i] for pair in pairs] for i in (0, 1))
    return csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(sets), len(column)))
