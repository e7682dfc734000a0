"""Readings that need the model, made in the background: with progress, cancellable, and kept with the run.

A reading is kept in the run's folder under a key of everything it depends on: the prompt, its start, the prompts it is
held against, the model's revision, the data and the number of rows. The same question is answered from there at once.

Besides the readings of `inspection.study` two can be asked for that take more than the run: "pair:RUN", another run's
prompt beside this one, and "twin:TEXT", a twin whose nearest words spell a text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from softprompt_core.errors import UserError
from softprompt_core.files import read_tensors, write_json, write_tensors
from softprompt_core.records import EndRecord, FloatArray, RunInfo, Snapshot, StartRecord
from softprompt_core.store import Store

if TYPE_CHECKING:
    from softprompt_core.inspection.study import Subject, Working

FORM = 1
"""Raised when a reading's document or method changes, so that older ones are made anew."""
ROWS = 200
LONGEST_TEXT = 400
SAME = ("model", "data", "text_column", "label_column", "template", "init", "init_text", "virtual_tokens", "method")
"""Settings in which runs of other seeds must agree to speak for a reading's stability."""
Stage = Literal["waiting", "working", "done", "failed", "cancelled"]
UNDER_WAY = ("waiting", "working")
log = logging.getLogger("softprompt.app")


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
    is_cancelled: threading.Event = field(default_factory=threading.Event)


class Readings:
    """One background thread that makes readings, one after another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._progress: dict[str, dict[str, Progress]] = {}
        self._jobs: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._keys: dict[str, tuple[object, str]] = {}

    def ask(self, run_id: str, names: Sequence[str]) -> None:
        """Starts these readings of a run; those under way go on. Raises UserError when one cannot be asked for."""
        self._store.prompt(run_id)
        for name in names:
            task_of(self._store, run_id, name)
        with self._changed:
            known = self._progress.setdefault(run_id, {})
            new = [name for name in names if name not in known or known[name].stage not in UNDER_WAY]
            if not new:
                return
            known |= {name: Progress() for name in new}
            self._jobs.append(_Job(run_id, new))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="readings", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def progress(self, run_id: str) -> dict[str, Progress]:
        """How far the readings asked for are, by name; empty when none was."""
        with self._changed:
            return {name: replace(found) for name, found in self._progress.get(run_id, {}).items()}

    def cancel(self, run_id: str) -> None:
        """Ends the readings of a run that are waiting or at work; finished ones stay."""
        with self._changed:
            for job in self._jobs:
                if job.run_id == run_id:
                    job.is_cancelled.set()
            for found in self._progress.get(run_id, {}).values():
                if found.stage == "waiting":
                    found.stage = "cancelled"

    def key(self, run_id: str) -> str:
        """`key_of` the run's subject, found again only when what it is made of has changed.

        Raises UserError as `subject_of` does.
        """
        others = [info.run_id for info in siblings(self._store, run_id)]
        folder = self._store.folder(run_id)
        times = [path.stat().st_mtime_ns for path in sorted(folder.glob("*.safetensors"))]
        stamp = (times, others, _other_id(self._store, run_id))
        with self._changed:
            known = self._keys.get(run_id)
        if known is None or known[0] != stamp:
            known = (stamp, key_of(subject_of(self._store, run_id)))
            with self._changed:
                self._keys[run_id] = known
        return known[1]

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                job = self._jobs[0]
            try:
                self._make(job)
            except Exception as error:
                reason = _said(error, job.run_id)
                for name in job.names:
                    found = self._progress[job.run_id][name]
                    if found.stage in UNDER_WAY:
                        found.stage, found.reason = "failed", reason
            finally:
                with self._changed:
                    self._jobs.remove(job)

    def _make(self, job: _Job) -> None:
        from softprompt_core.evaluation import Cancelled

        if job.is_cancelled.is_set():
            return
        subject = subject_of(self._store, job.run_id, should_stop=job.is_cancelled.is_set)
        key = key_of(subject)
        for name in job.names:
            progress = self._progress[job.run_id][name]
            if progress.stage != "waiting":
                continue
            progress.stage = "working"
            try:
                for share in making(self._store, job.run_id, name, subject, key):
                    progress.share = share
                progress.document, progress.share = kept(self._store, job.run_id, name, key), 1.0
                progress.stage = "done"
            except Cancelled:
                progress.stage = "cancelled"
            except Exception as error:
                progress.reason = _said(error, job.run_id)
                progress.stage = "failed"


def _said(error: Exception, run_id: str) -> str:
    if isinstance(error, UserError):
        return str(error)
    log.error("A reading of %s failed", run_id, exc_info=error)
    return f"A fault in the program ({type(error).__name__}); see the log."


def read(
    store: Store, run_id: str, names: Sequence[str] | None = None, *,
    on_share: Callable[[str, float], None] = lambda name, share: None,
) -> dict[str, Any]:
    """The documents of these readings (all of them, left out), made now or taken from the run's folder.

    A reading that cannot be made is {"reason": sentence}. on_share is told each reading's name and how much of it is
    done, at most once for every tenth.
    """
    from softprompt_core.inspection.study import READINGS

    subject = subject_of(store, run_id)
    key = key_of(subject)
    found: dict[str, Any] = {}
    for name in names or READINGS:
        try:
            told = 0
            for share in making(store, run_id, name, subject, key):
                if int(10 * share) > told:
                    told = int(10 * share)
                    on_share(name, share)
            found[name] = kept(store, run_id, name, key)
        except UserError as error:
            found[name] = {"reason": str(error)}
    return found


@dataclass(frozen=True)
class Task:
    """A reading that was asked for: its file's stem, its maker, and what it depends on besides its subject."""

    name: str
    make: Callable[[Subject], Working]
    beside: bytes = b""


def task_of(store: Store, run_id: str, asked: str) -> Task:
    """The reading of this name. Raises UserError when there is none, or what it is to be held against is missing."""
    from softprompt_core.inspection import beside
    from softprompt_core.inspection.study import READINGS
    from softprompt_core.operations import start_of

    name, _, argument = asked.partition(":")
    if name == "pair":
        other, origin = store.prompt(argument), start_of(store, argument)
        if argument == run_id or store.run(argument).config["model"] != store.run(run_id).config["model"]:
            raise UserError("Only another run on the same model can be held against this one. Choose another.")
        held = other.tobytes()
        return Task(f"pair-{argument}", lambda subject: beside.pair(subject, other, other_start=origin), held)
    if name == "twin":
        text = argument.strip()
        if not text or len(text) > LONGEST_TEXT:
            raise UserError(f"Give the words to spell: 1 to {LONGEST_TEXT} characters; {len(text)} were given.")
        return Task("twin", lambda subject: beside.twin(subject, text), text.encode())
    if name not in READINGS or argument:
        raise UserError(f"There is no reading {asked!r}; allowed are {', '.join(READINGS)}.")
    return Task(name, READINGS[name])


def making(store: Store, run_id: str, name: str, subject: Subject, key: str) -> Iterator[float]:
    """Makes one reading unless it is kept already; yields the share that is done."""
    if kept(store, run_id, name, key) is not None:
        return
    task = task_of(store, run_id, name)
    steps = task.make(subject)
    while True:
        subject.effect.check_stop()
        try:
            yield next(steps)
        except StopIteration as finished:
            folder = store.folder(run_id) / "readings"
            folder.mkdir(exist_ok=True)
            reading = dict(finished.value)
            if (vectors := reading.pop("prompt", None)) is not None:
                write_tensors(folder / f"{task.name}.safetensors", {"prompt_embeddings": vectors})
            write_json(folder / f"{task.name}.json", {"key": _joined(key, task), "reading": reading})
            return


def kept(store: Store, run_id: str, name: str, key: str) -> dict[str, Any] | None:
    """A reading kept with the run, if it was made of the very same things; None otherwise."""
    task = task_of(store, run_id, name)
    path = store.folder(run_id) / "readings" / f"{task.name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["reading"]) if found["key"] == _joined(key, task) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kept_at(store: Store, run_id: str, name: str, key: str) -> str:
    """What changes whenever a kept reading does; empty when none of this key is kept."""
    if kept(store, run_id, name, key) is None:
        return ""
    path = store.folder(run_id) / "readings" / f"{task_of(store, run_id, name).name}.json"
    return str(path.stat().st_mtime_ns)


def _joined(key: str, task: Task) -> str:
    return key + (f"-{hashlib.sha256(task.beside).hexdigest()[:16]}" if task.beside else "")


def twin_prompt(store: Store, run_id: str) -> FloatArray:
    """The vectors [P, H] of the twin made last. Raises UserError when none was."""
    path = store.folder(store.run(run_id).run_id) / "readings" / "twin.safetensors"
    if not path.exists():
        raise UserError("No twin of this run has been trained yet. Train one first.")
    return read_tensors(path)[0]["prompt_embeddings"]


def keep_twin(store: Store, run_id: str) -> str:
    """The id of a new run whose prompt is the twin made last; it has a run's figures only when evaluated.

    Raises UserError when no twin was made.
    """
    vectors, config = twin_prompt(store, run_id), store.config(run_id)
    # another start than the run's own, so that a twin never speaks for the stability of its words
    changes = {"name": f"wayward twin of {store.run(run_id).name}"[:100], "init": "from_run", "init_run": run_id}
    made = store.create(config.with_changes(**changes), status="running")
    snapshot = Snapshot(made, config.steps, vectors, "selected")
    store.append([StartRecord(made, store.facts(run_id)), snapshot, EndRecord(made, "done", "A wayward twin.", {})])
    return made


def kept_readings(store: Store, run_id: str) -> dict[str, dict[str, Any] | None]:
    """Every reading by name: what is kept with the run, None for what has not been made. The model is loaded only
    where something is kept."""
    found = no_readings()
    if not (store.folder(run_id) / "readings").is_dir():
        return found
    key = key_of(subject_of(store, run_id))
    return {name: kept(store, run_id, name, key) for name in found}


def no_readings() -> dict[str, dict[str, Any] | None]:
    """Every reading by name, none of them made."""
    from softprompt_core.inspection.study import READINGS

    return dict.fromkeys(READINGS)


def inspection_with_readings(
    store: Store, run_id: str, *, names: Sequence[str] = (),
    on_share: Callable[[str, float], None] = lambda name, share: None, **switches: Any,
) -> dict[str, Any]:
    """The `inspect` document of a run with `readings`, and with its `trust` where the ladder has been measured.

    Readings in `names` are made now; the others are those kept with the run, None where there is none. switches: top,
    metric, correction, whole_words.
    """
    from softprompt_core.operations import inspect_run

    document = inspect_run(store, run_id, **switches)
    made = read(store, run_id, names, on_share=on_share) if names else {}
    document["readings"] = {**kept_readings(store, run_id), **made}
    ladder = document["readings"]["ladder"]
    if ladder and "trust" in ladder:
        document["trust"] = ladder["trust"]
    return document


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
        other=_prompt_of(store, _other_id(store, run_id), width=prompt.shape[1]), written=str(written or ""),
    )


def _prompt_of(store: Store, run_id: str | None, *, width: int) -> FloatArray | None:
    prompt = None if run_id is None else store.prompt(run_id)
    return prompt if prompt is not None and prompt.shape[1] == width else None


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


def _other_id(store: Store, run_id: str) -> str | None:
    """The newest finished run on the same model and other data, if there is one."""
    own = store.run(run_id).config
    for info in store.runs():
        config = info.config
        is_other = config["model"] == own["model"] and config["data"] != own["data"] and info.status == "done"
        if is_other and config.get("method", "prompt") == "prompt" and store.has_prompt(info.run_id):
            return info.run_id
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
