"""Readings that need the model, made in the background: with progress, cancellable, and kept with the run.

A reading is kept in the run's folder under a key of everything it depends on: the prompt, its start, the prompts it is
held against, the model's revision, the data and the number of rows. The same question is answered from there at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from softprompt_core.errors import UserError
from softprompt_core.files import write_json
from softprompt_core.records import FloatArray, RunInfo
from softprompt_core.store import Store

if TYPE_CHECKING:
    from softprompt_core.inspection.study import Subject

FORM = 1
"""Raised when a reading's document or method changes, so that older ones are made anew."""
ROWS = 200
SAME = ("model", "data", "text_column", "label_column", "template", "init", "init_text", "virtual_tokens", "method")
"""Settings in which runs of other seeds must agree to speak for a reading's stability."""
Stage = Literal["waiting", "working", "done", "failed", "cancelled"]
log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far one reading of one run is; `share` is 0 … 1, `reason` why it failed."""

    stage: Stage = "waiting"
    share: float = 0.0
    reason: str = ""
    document: dict[str, Any] | None = None


@dataclass
class _Job:
    run_id: str
    names: list[str]
    progress: dict[str, Progress]
    is_cancelled: threading.Event = field(default_factory=threading.Event)


class Readings:
    """One background thread that makes readings, one run after another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._waiting: list[_Job] = []
        self._thread: threading.Thread | None = None

    def ask(self, run_id: str, names: Sequence[str]) -> None:
        """Starts these readings of a run, unless they are under way. Raises UserError when the run has no prompt."""
        self._store.prompt(run_id)
        with self._changed:
            old = self._jobs.get(run_id)
            if old and any(p.stage in ("waiting", "working") for p in old.progress.values()):
                return
            job = _Job(run_id, list(names), {name: Progress() for name in names})
            self._jobs[run_id] = job
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="readings", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def progress(self, run_id: str) -> dict[str, Progress]:
        """How far the readings asked for are, by name; empty when none was."""
        with self._changed:
            return dict(self._jobs[run_id].progress) if run_id in self._jobs else {}

    def cancel(self, run_id: str) -> None:
        """Ends the readings of a run that are waiting or at work; finished ones stay."""
        with self._changed:
            job = self._jobs.get(run_id)
        if job:
            job.is_cancelled.set()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._waiting.pop(0)
            try:
                self._make(job)
            except Exception as error:
                log.exception("readings of %s failed", job.run_id)
                is_users = isinstance(error, UserError)
                said = str(error) if is_users else f"A fault in the program ({type(error).__name__}); see the log."
                for progress in job.progress.values():
                    if progress.stage in ("waiting", "working"):
                        progress.stage, progress.reason = "failed", said

    def _make(self, job: _Job) -> None:
        from softprompt_core.evaluation import Cancelled

        subject = subject_of(self._store, job.run_id, should_stop=job.is_cancelled.is_set)
        key = key_of(subject)
        for name in job.names:
            progress = job.progress[name]
            try:
                for progress.share in making(self._store, job.run_id, name, subject, key):
                    progress.stage = "working"
                progress.document, progress.share = kept(self._store, job.run_id, name, key), 1.0
                progress.stage = "done"
            except Cancelled:
                progress.stage = "cancelled"
            except UserError as error:
                progress.stage, progress.reason = "failed", str(error)


def read(store: Store, run_id: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The documents of these readings (all of them, left out), made now or taken from the run's folder.

    A reading that cannot be made is {"reason": sentence}.
    """
    from softprompt_core.inspection.study import READINGS

    subject = subject_of(store, run_id)
    key = key_of(subject)
    found: dict[str, Any] = {}
    for name in names or READINGS:
        try:
            for _ in making(store, run_id, name, subject, key):
                pass
            found[name] = kept(store, run_id, name, key)
        except UserError as error:
            found[name] = {"reason": str(error)}
    return found


def making(store: Store, run_id: str, name: str, subject: Subject, key: str) -> Any:
    """Makes one reading unless it is kept already; yields the share that is done."""
    from softprompt_core.inspection.study import READINGS

    if kept(store, run_id, name, key) is not None:
        return
    steps = READINGS[name](subject)
    while True:
        subject.effect.check_stop()
        try:
            yield next(steps)
        except StopIteration as finished:
            folder = store.folder(run_id) / "readings"
            folder.mkdir(exist_ok=True)
            write_json(folder / f"{name}.json", {"key": key, "reading": finished.value})
            return


def kept(store: Store, run_id: str, name: str, key: str) -> dict[str, Any] | None:
    """A reading kept with the run, if it was made of the very same things; None otherwise."""
    path = store.folder(run_id) / "readings" / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["reading"]) if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def subject_of(store: Store, run_id: str, *, rows: int = ROWS, should_stop: Any = lambda: False) -> Subject:
    """What the readings of a run are made of. Raises UserError when the run cannot be read so."""
    from softprompt_core.data import load_task
    from softprompt_core.inspection.effect import Effect
    from softprompt_core.inspection.study import Subject
    from softprompt_core.inspection.vocabulary import vocabulary_of
    from softprompt_core.operations import base_of, start_of
    from softprompt_core.tokenising import tokenise

    config, prompt = store.config(run_id), store.prompt(run_id)
    if config.data == "imported":
        raise UserError(
            "This prompt was imported without its data, so what it does cannot be measured. "
            "Its nearest words, norms and map can still be read."
        )
    base = base_of(store, run_id)
    tokens = tokenise(load_task(config), base.tokenizer, config, context=base.context)
    written = store.facts(run_id).get("hand_written_prompt")
    return Subject(
        effect=Effect(base, tokens, rows=rows, should_stop=should_stop), vocabulary=vocabulary_of(base), prompt=prompt,
        start=start_of(store, run_id), siblings=tuple(store.prompt(info.run_id) for info in siblings(store, run_id)),
        other=_other(store, run_id, width=prompt.shape[1]), written=str(written or ""),
    )


def siblings(store: Store, run_id: str, *, most: int = 4) -> list[RunInfo]:
    """Finished runs that differ from this one in their seed only, newest first, one a seed."""
    own = store.run(run_id)
    found: dict[int, RunInfo] = {}
    for info in store.runs():
        alike = all(info.config.get(name) == own.config.get(name) for name in SAME)
        seed = info.config["seed"]
        if alike and info.status == "done" and seed != own.config["seed"] and store.has_prompt(info.run_id):
            found.setdefault(seed, info)
    return list(found.values())[:most]


def _other(store: Store, run_id: str, *, width: int) -> FloatArray | None:
    """The prompt of the newest finished run on the same model and other data, if there is one."""
    own = store.run(run_id).config
    for info in store.runs():
        config = info.config
        is_other = config["model"] == own["model"] and config["data"] != own["data"] and info.status == "done"
        if is_other and config.get("method", "prompt") == "prompt" and store.has_prompt(info.run_id):
            prompt = store.prompt(info.run_id)
            if prompt.shape[1] == width:
                return prompt
    return None


def key_of(subject: Subject) -> str:
    """A hash of everything that the readings of a subject depend on."""
    digest = hashlib.sha256()
    effect = subject.effect
    facts = [
        FORM, effect.base.revision, str(effect.base.dtype), effect.tokens.task.fingerprint, len(effect.examples),
        subject.written,
    ]
    digest.update(json.dumps(facts).encode())
    for prompt in (subject.prompt, subject.start, *subject.siblings, subject.other):
        digest.update(b"-" if prompt is None else np.ascontiguousarray(prompt).tobytes())
    return digest.hexdigest()[:24]
