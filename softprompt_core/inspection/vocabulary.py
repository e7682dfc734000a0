"""The words a prompt can be read as: the embedding table, what each row says, and which rows count as words.

Axis letters: V vocabulary, H embedding width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from softprompt_core.errors import UserError
from softprompt_core.records import FloatArray
from softprompt_core.visible import Spelling, Style, is_whole_word, spellings, token_style

if TYPE_CHECKING:
    from softprompt_core.models import BaseModel

Float64Array = NDArray[np.float64]

CHUNK_ROWS = 16_384
CHUNK_BYTES = 64 << 20
"""A chunk holds at most so many rows and, in float64, so many bytes: readings need little beyond the
table."""

NEAR_ZERO = 0.05
"""A row shorter than this share of the median row was never trained."""
NEARLY_IDENTICAL = 0.02
"""Rows this close to another one, as a share of the table's root-mean-square distance from its mean, were
never trained: rows that no text ever reached all end in the same place."""
NEAR_UNUSED = 0.25
"""A row this close to that place, as a share of its distance from the table's mean, has hardly left it."""
UNUSED_ROWS = 8
"""Nearly identical rows that make such a place."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A base model's embedding table and what is known of its rows; compared by identity.

    table: [V, H] float32; norms: [V] float32; texts: visible text of each id; is_listed: [V], may be a
    nearest word; is_whole_word: [V]; left_out: how many ids are not listed, by the first reason that applies.
    """

    table: FloatArray
    norms: FloatArray
    texts: list[str]
    is_listed: NDArray[np.bool_]
    is_whole_word: NDArray[np.bool_]
    left_out: dict[str, int]


_by_model: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()
_lock = threading.RLock()

Args = ParamSpec("Args")
Result = TypeVar("Result")


def vocabulary_of(base: BaseModel) -> Vocabulary:
    """The vocabulary of a base model, made once and kept as long as the model is.

    Raises UserError when the tokenizer leaves nothing to read a prompt as.
    """
    from softprompt_core.models import embedding_table

    with _lock:
        if base not in _by_model:
            _by_model[base] = build_vocabulary(embedding_table(base).numpy(), base.tokenizer)
        return _by_model[base]


def build_vocabulary(table: FloatArray, tokenizer: Any) -> Vocabulary:
    """The vocabulary of an embedding table [V, H] and the tokenizer that goes with it.

    Left out and counted: special tokens; ids beyond the tokenizer; ids whose text does not encode back to
    them; rows that were never trained (`never_trained`). Raises UserError when fewer than two rows remain.
    """
    words = len(table)
    style = token_style(tokenizer)
    spelled = spellings(tokenizer, range(words))
    special = _mask(_special_ids(tokenizer), words)
    beyond = _mask([i for i in range(words) if spelled[i] == (None, f"⟨id {i}⟩")], words)
    norms = row_norms(table)
    reasons = {
        "special tokens": special,
        "beyond the tokenizer": beyond,
        "text does not encode back": ~_encodes_back(tokenizer, spelled, style),
        "never trained": never_trained(table, norms),
    }
    is_listed = np.ones(words, dtype=bool)
    left_out = {}
    for reason, mask in reasons.items():
        left_out[reason] = int((mask & is_listed).sum())
        is_listed &= ~mask
    if is_listed.sum() < 2:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(
            f"None of the {words} vocabulary rows can be read as words ({counts}). "
            "Check that the tokenizer belongs to the model."
        )
    whole = [s.text is not None and is_whole_word(s.text, style) for s in spelled]
    return Vocabulary(
        table, norms, [s.shown for s in spelled], is_listed, np.array(whole, dtype=bool), left_out
    )


def never_trained(table: FloatArray, norms: FloatArray) -> NDArray[np.bool_]:
    """Which rows of a table [V, H] training never moved by themselves: [V].

    A row is one when its norm is under 5 % of the median norm, or when another row is nearly identical (rows
    of ids that no text uses all receive the same gradient, so they meet; no two words of a trained table do),
    or, where at least 8 rows meet, when it lies within a quarter of the way from their place to the table's
    mean. After Land & Bartolo 2024, who measure closeness to unused rows known beforehand.
    """
    mean = table.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(max(np.mean(norms.astype(np.float64) ** 2) - mean @ mean, 0.0)))
    near_zero = norms < NEAR_ZERO * np.median(norms)
    if len(table) < 2 or scale <= 1e-6 * np.median(norms):
        return np.ones(len(table), dtype=bool)
    met = _has_twin(table, NEARLY_IDENTICAL * scale)
    if met.sum() < UNUSED_ROWS:
        return near_zero | met
    place = np.median(table[met], axis=0)
    reach = NEAR_UNUSED * np.linalg.norm(place - mean)
    near = [np.linalg.norm(table[part] - place, axis=1) <= reach for part in chunks(table)]
    return near_zero | met | np.concatenate(near)


def _has_twin(table: FloatArray, radius: float) -> NDArray[np.bool_]:
    """Which rows have another row within `radius`: [V].

    Looked for among the four nearest after projection on 8 fixed random directions, then measured exactly; a
    projection rarely doubles a distance (chi-square, p < 1e-4).
    """
    from scipy.spatial import cKDTree

    directions = np.random.default_rng(0).standard_normal((table.shape[1], 8)) / np.sqrt(8)
    projected = np.concatenate([table[part] @ directions.astype(np.float32) for part in chunks(table)])
    near = min(4, len(table))
    _, found = cKDTree(projected).query(projected, k=near, distance_upper_bound=2 * radius)
    has_twin = np.zeros(len(table), dtype=bool)
    for column in range(near):
        other = found[:, column]
        rows = np.flatnonzero((other < len(table)) & (other != np.arange(len(table))))
        for part in chunks(table, len(rows)):
            pairs = rows[part]
            apart = table[pairs] - table[other[pairs]]
            has_twin[pairs] |= np.sqrt(np.einsum("vh,vh->v", apart, apart)) <= radius
    return has_twin


def kept(
    function: Callable[Concatenate[Vocabulary, Args], Result],
) -> Callable[Concatenate[Vocabulary, Args], Result]:
    """The function with its results kept as long as the vocabulary lives; two threads never compute one
    twice."""
    results: WeakKeyDictionary[Vocabulary, dict[Any, Result]] = WeakKeyDictionary()
    lock = threading.RLock()

    @wraps(function)
    def remembered(vocabulary: Vocabulary, *args: Args.args, **named: Args.kwargs) -> Result:
        key = (args, tuple(sorted(named.items())))
        with lock:
            known = results.setdefault(vocabulary, {})
            if key not in known:
                known[key] = function(vocabulary, *args, **named)
            return known[key]

    return remembered


@kept
def listed_mean(vocabulary: Vocabulary) -> Float64Array:
    """The mean of the listed rows: [H]."""
    total = np.zeros(vocabulary.table.shape[1])
    for rows in listed_chunks(vocabulary):
        total += rows.sum(axis=0)
    return total / vocabulary.is_listed.sum()


@kept
def listed_covariance(vocabulary: Vocabulary) -> Float64Array:
    """The covariance of the listed rows, divided by their number less one: [H, H]."""
    width = vocabulary.table.shape[1]
    mean = listed_mean(vocabulary)
    total = np.zeros((width, width))
    for rows in listed_chunks(vocabulary):
        rows -= mean
        total += rows.T @ rows
    return total / (vocabulary.is_listed.sum() - 1)


def listed_chunks(vocabulary: Vocabulary) -> Iterator[Float64Array]:
    """The listed rows in order as fresh float64 chunks [C, H]."""
    ids = np.flatnonzero(vocabulary.is_listed)
    for part in chunks(vocabulary.table, len(ids)):
        yield vocabulary.table[ids[part]].astype(np.float64)


def chunks(table: FloatArray, rows: int | None = None) -> Iterator[slice]:
    """Slices over `rows` rows (all of the table's, left out) of its width, small enough to copy in
    float64."""
    step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // (8 * table.shape[1])))
    for start in range(0, len(table) if rows is None else rows, step):
        yield slice(start, start + step)


def row_norms(table: FloatArray) -> FloatArray:
    """The length of every row of [V, H]: [V] float32."""
    parts = [np.linalg.norm(table[part].astype(np.float64), axis=1) for part in chunks(table)]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def checked_vectors(vectors: FloatArray, vocabulary: Vocabulary) -> Float64Array:
    """The vectors [N, H] in float64. Raises UserError when their shape or values cannot be read."""
    array = np.asarray(vectors)
    width = vocabulary.table.shape[1]
    if array.ndim != 2 or array.shape[1] != width:
        shape = " by ".join(map(str, array.shape)) or "a single number"
        raise UserError(
            f"The prompt has the shape {shape}; this base model needs rows of {width} numbers. "
            "Choose the model that the prompt was trained on."
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"The prompt holds {array.dtype} values; floating-point numbers are needed. Export it again."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(
            f"Virtual token {bad[0]} holds NaN or infinite numbers, so it cannot be read. "
            "Train again with a lower learning rate, or open an earlier snapshot."
        )
    return array.astype(np.float64)


def _special_ids(tokenizer: Any) -> list[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)]


def _mask(ids: list[int], words: int) -> NDArray[np.bool_]:
    mask = np.zeros(words, dtype=bool)
    mask[[i for i in ids if i is not None and 0 <= i < words]] = True
    return mask


def _encodes_back(tokenizer: Any, spelled: list[Spelling], style: Style) -> NDArray[np.bool_]:
    """Which ids the tokenizer gives back for their own text: [V].

    Tried alone and, since SentencePiece puts a space before a text's start, after a « that is then taken off
    again. WordPiece's ## entries count as they are: their text alone cannot tell.
    """
    texts = [s.text for s in spelled]
    good = np.zeros(len(texts), dtype=bool)
    if style == "wordpiece":
        good = np.array(
            [text is not None and text.startswith("##") and len(text) > 2 for text in texts], dtype=bool
        )

    def try_all(write: Callable[[str], str], prefix: list[int]) -> None:
        left = [i for i, text in enumerate(texts) if text and not good[i]]
        for start in range(0, len(left), CHUNK_ROWS):
            ids = left[start : start + CHUNK_ROWS]
            encoded = tokenizer([write(texts[i] or "") for i in ids], add_special_tokens=False)["input_ids"]
            good[[i for i, code in zip(ids, encoded, strict=True) if code == [*prefix, i]]] = True

    try_all(lambda text: text.removeprefix(" ") if style == "metaspace" else text, [])
    try_all(lambda text: "«" + text, tokenizer("«", add_special_tokens=False)["input_ids"])
    return good
