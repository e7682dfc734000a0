"""A run opened for reading: its prompt beside its base model's vocabulary, both on one set of axes.

Torch and transformers are imported at the first opening, never when the page is built.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from softprompt_core import operations
from softprompt_core.errors import UserError
from softprompt_core.records import FloatArray, RunInfo, TokenReading
from softprompt_core.ui import charts
from softprompt_core.ui.context import Context

if TYPE_CHECKING:
    from softprompt_core.inspection.projection import Basis
    from softprompt_core.inspection.vocabulary import Vocabulary

Metric = Literal["cosine", "dot", "l2"]
Correction = Literal["none", "centred", "csls", "all_but_top"]

COMPONENTS = 3
KEPT_SPACES = 2
_spaces: dict[str, Space] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Space:
    """The vocabulary of one base model on its own principal axes; coordinates: [V, C] float32."""

    key: str
    vocabulary: Vocabulary
    basis: Basis
    coordinates: FloatArray
    cloud: str


@dataclass(frozen=True)
class Opened:
    """A run's prompt [P, H] of step `step`, its start, and its snapshots (steps [S], prompts [S, P, H])."""

    info: RunInfo
    step: int
    prompt: FloatArray
    start: FloatArray | None
    steps: np.ndarray
    prompts: FloatArray
    space: Space


def open_run(context: Context, run_id: str) -> Opened:
    """The run with everything that the readings need. Raises UserError when it cannot be read."""
    info = context.store.run(run_id)
    step, prompt = context.store.prompt_at(run_id)
    steps, prompts = context.store.snapshots(run_id)
    space = space_of(context, run_id)
    width = space.vocabulary.table.shape[1]
    if prompt.shape[1] != width:
        raise UserError(
            f"The prompt of {info.name!r} is {prompt.shape[1]} wide, but {info.config.get('model')!r} is {width} wide. "
            "The model at that place has changed; put the one it was trained on back."
        )
    start = prompts[0] if len(steps) and int(steps[0]) == 0 else None
    return Opened(info, step, prompt, start, steps, prompts, space)


def prompt_stamp(context: Context, run_id: str) -> str:
    """What changes whenever the prompt that would be read does; empty while there is none. Opens no file."""
    folder = context.store.folder(run_id)
    for stem in ("live", "prompt", "snapshots"):     # as Store.prompt_at looks for them
        try:
            return f"{stem}{(folder / f'{stem}.safetensors').stat().st_mtime_ns}"
        except FileNotFoundError:
            continue
    return ""


def space_of(context: Context, run_id: str) -> Space:
    """The vocabulary of a run's base model; kept, since every run of a model shares it."""
    from softprompt_core.inspection.projection import project, vocabulary_basis
    from softprompt_core.inspection.vocabulary import vocabulary_of

    base = operations.base_of(context.store, run_id)
    key = f"{base.name}@{base.revision}@{base.dtype}"
    with _lock:
        if key not in _spaces:
            vocabulary = vocabulary_of(base)
            basis = vocabulary_basis(vocabulary, components=COMPONENTS)
            coordinates = project(vocabulary.table, basis).astype(np.float32)
            cloud = charts.cloud_payload(
                vocabulary.texts, coordinates, is_listed=vocabulary.is_listed, key=key,
                explained=basis.explained_variance_ratio, left_out=vocabulary.left_out,
            )
            while len(_spaces) >= KEPT_SPACES:
                _spaces.pop(next(iter(_spaces)))
            _spaces[key] = Space(key, vocabulary, basis, coordinates, cloud)
        return _spaces[key]


def tokens_of(
    opened: Opened, *, metric: Metric, correction: Correction, whole_words: bool, top: int
) -> list[TokenReading]:
    """What the cheap readings say of each virtual token."""
    from softprompt_core.inspection.readings import read_tokens

    return read_tokens(
        opened.prompt, opened.space.vocabulary, start=opened.start, top=top, metric=metric,
        correction=correction, whole_words=whole_words,
    )


def shares_of(opened: Opened) -> FloatArray:
    """How much of each virtual token lies in the picture, in two and in three dimensions: [P, 2] between 0 and 1."""
    from softprompt_core.inspection.projection import share_in_plane

    shares = [share_in_plane(opened.prompt, opened.space.basis, dims=dims) for dims in (2, COMPONENTS)]
    return np.stack(shares, axis=1).astype(np.float32)


def cloud_of(key: str) -> str:
    """The picture of a vocabulary that has been opened. Raises UserError when none of that name has been."""
    with _lock:
        if key not in _spaces:
            raise UserError("This vocabulary is no longer open on the server. Reload the page.")
        return _spaces[key].cloud


def find_words(key: str, query: str, *, limit: int = 12) -> list[dict[str, Any]]:
    """Vocabulary entries whose text is, starts with or holds `query`, best first, with their place in the map."""
    with _lock:
        space = _spaces.get(key)
    wanted = query.strip().lower()
    if space is None or not wanted:
        return []
    ranked = sorted(
        (rank, len(text), word)
        for word, text in enumerate(space.vocabulary.texts)
        if (rank := _match(text.lower(), wanted)) is not None
    )[:limit]
    words = [word for _, _, word in ranked]
    places = charts.quantise(space.coordinates[words], charts.grid_step(space.coordinates)).tolist() if words else []
    return [
        {"id": word, "text": space.vocabulary.texts[word], "xyz": place}
        for word, place in zip(words, places, strict=True)
    ]


def _match(text: str, wanted: str) -> int | None:
    bare = text.lstrip("␣")
    if bare == wanted or text == wanted:
        return 0
    if bare.startswith(wanted):
        return 1
    return 2 if wanted in text else None
