"""Runs on disk: a SQLite file for live state and metrics, a folder a run for what must open anywhere.

Written for many readers and one writer a run: WAL, short transactions, files written aside and renamed.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from softprompt_core.checkpoints import checkpoint_steps, read_checkpoint, remove_later, write_checkpoint
from softprompt_core.config import METHOD_NAMES, PROMPT_METHODS, TrainConfig, parse_config
from softprompt_core.errors import UserError
from softprompt_core.files import read_tensors, write_aside, write_json, write_tensors
from softprompt_core.records import (
    ENDED,
    Checkpoint,
    EndRecord,
    EvalRecord,
    FloatArray,
    LogRecord,
    PauseRecord,
    Record,
    ResumeRecord,
    RunInfo,
    Snapshot,
    StartRecord,
    Status,
    StepRecord,
    Tensors,
    Weights,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  run_id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, group_id TEXT,
  created REAL NOT NULL, updated REAL NOT NULL, config TEXT NOT NULL, result TEXT NOT NULL DEFAULT '{}',
  reason TEXT NOT NULL DEFAULT '', step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL,
  owner TEXT, heartbeat REAL, is_asked_to_stop INTEGER NOT NULL DEFAULT 0,
  is_asked_to_pause INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS runs_created ON runs(created);
CREATE INDEX IF NOT EXISTS runs_group ON runs(group_id);
CREATE TABLE IF NOT EXISTS metrics (
  run_id TEXT NOT NULL, step INTEGER NOT NULL, epoch REAL, loss REAL, learning_rate REAL,
  gradient_norm REAL, tokens INTEGER, seconds REAL, PRIMARY KEY (run_id, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evals (
  run_id TEXT NOT NULL, step INTEGER NOT NULL, split TEXT NOT NULL, source TEXT NOT NULL, loss REAL,
  accuracy REAL, macro_f1 REAL, rows INTEGER, PRIMARY KEY (run_id, step, split, source)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, time REAL NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS logs_run ON logs(run_id, id);
"""
LATER_COLUMNS = {"is_asked_to_pause": "INTEGER NOT NULL DEFAULT 0"}
"""Columns of `runs` that databases of earlier versions lack."""
_ENDED_SQL = f"({', '.join(map(repr, ENDED))})"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
CHECKPOINTS, METRICS, SNAPSHOTS = "checkpoints", "metrics.jsonl", "snapshots.safetensors"
WEIGHTS = Path("weights", "selected.safetensors")
HEARTBEAT_SECONDS = 1.0
LEASE_SECONDS = 15.0


class Store:
    """One runs folder. `clock` gives seconds since 1970."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.root = Path(root)
        self._clock = clock
        self._local = threading.local()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._write() as db:
                db.executescript(SCHEMA)
            with self._write() as db:       # the script has ended the transaction above
                known = {row["name"] for row in db.execute("PRAGMA table_info(runs)")}
                for name in LATER_COLUMNS.keys() - known:
                    db.execute(f"ALTER TABLE runs ADD COLUMN {name} {LATER_COLUMNS[name]}")
        except (OSError, sqlite3.DatabaseError) as error:
            raise UserError(
                f"The runs folder {str(self.root)!r} cannot be written ({error}). "
                "Choose another with --runs-dir."
            ) from None

    # ------------------------------------------------------------------ runs

    def create(
        self, config: TrainConfig, *, group_id: str | None = None, status: Status = "queued"
    ) -> str:
        """The id of a new run whose settings are saved in its folder."""
        return self.create_group([config], group_id=group_id, status=status)[0]

    def create_group(
        self, configs: Sequence[TrainConfig], *, group_id: str | None = None, status: Status = "queued",
        owner: str | None = None,
    ) -> list[str]:
        """The ids of new runs, all of them or none: their folders first, then one transaction.

        group_id: the comparison they belong to; several runs get one where it is left out.
        """
        now = self._clock()
        if group_id is None and len(configs) > 1:
            group_id = self.new_group_id()
        rows, folders = [], []
        try:
            for config in configs:
                label = re.sub(r"[^a-z0-9]+", "-", Path(config.data).stem.lower()).strip("-")[:24] or "data"
                stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
                arm = config.init if config.method == "prompt" else config.method
                run_id = f"{stamp}-{label}-{arm.replace('_', '-')}-{secrets.token_hex(4)}"
                shown = arm if config.method == "prompt" else METHOD_NAMES[config.method]
                name = config.name or f"{label} · {shown} · seed {config.seed}"
                folder = self.root / run_id
                folder.mkdir()
                folders.append(folder)
                write_json(folder / "config.json", config.model_dump())
                write_json(folder / "run.json", {"name": name, "group_id": group_id, "created": now})
                rows.append(
                    (run_id, name, status, group_id, now, now, config.model_dump_json(), config.steps, owner, now)
                )
            with self._write() as db:
                db.executemany(
                    "INSERT INTO runs (run_id, name, status, group_id, created, updated, config, steps, owner, "
                    "heartbeat) VALUES (?,?,?,?,?,?,?,?,?,?)", rows,
                )
        except BaseException:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return [row[0] for row in rows]

    def run(self, run_id: str) -> RunInfo:
        """What is known of one run. Raises UserError when there is none of that id."""
        row = self._read().execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise UserError(f"There is no run {run_id!r} in {self.root}. 'softprompt runs list' names them all.")
        return _run_info(row)

    def has_run(self, run_id: str) -> bool:
        return self._read().execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None

    def runs(self, *, limit: int = 10_000) -> list[RunInfo]:
        """Every run, newest first."""
        rows = self._read().execute("SELECT * FROM runs ORDER BY created DESC, rowid DESC LIMIT ?", (limit,))
        return [_run_info(row) for row in rows]

    def group(self, group_id: str) -> list[RunInfo]:
        """The runs of one comparison in the order in which they were made."""
        rows = self._read().execute("SELECT * FROM runs WHERE group_id = ? ORDER BY rowid", (group_id,))
        return [_run_info(row) for row in rows]

    def config(self, run_id: str) -> TrainConfig:
        """The settings of one run."""
        return parse_config(self.run(run_id).config)

    def new_group_id(self) -> str:
        """An id for runs that belong to one comparison."""
        return f"group-{time.strftime('%Y%m%d-%H%M%S', time.localtime(self._clock()))}-{secrets.token_hex(2)}"

    def change_config(self, run_id: str, config: TrainConfig) -> None:
        """Gives a run that has ended other settings, with which it may go on. Raises UserError while it is at work."""
        with self._write() as db:
            changed = db.execute(
                f"UPDATE runs SET config = ?, steps = ?, updated = ? WHERE run_id = ? AND status IN {_ENDED_SQL}",
                (config.model_dump_json(), config.steps, self._clock(), run_id),
            ).rowcount
        if not changed:
            raise UserError(f"Run {run_id!r} is {self.run(run_id).status}. Stop it first, then change its settings.")
        write_json(self.folder(run_id) / "config.json", config.model_dump())

    def rename(self, run_id: str, name: str) -> None:
        """Gives a run another name. Raises UserError when the name could be a path."""
        clean = parse_config({"name": name}).name
        info = self.run(run_id)
        with self._write() as db:
            db.execute("UPDATE runs SET name = ? WHERE run_id = ?", (clean, run_id))
        facts = {"name": clean, "group_id": info.group_id, "created": info.created}
        if self.folder(run_id).is_dir():
            write_json(self.folder(run_id) / "run.json", facts)

    def delete(self, run_id: str) -> None:
        """Forgets a run and removes its folder. Raises UserError while it is at work."""
        if self.run(run_id).status not in ENDED:
            raise UserError(f"Run {run_id!r} is still at work. Stop it first, then delete it.")
        with self._write() as db:
            for table in ("metrics", "evals", "logs", "runs"):
                db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def folder(self, run_id: str) -> Path:
        """Where the files of a run lie. Raises UserError for an id that could leave the runs folder."""
        if not RUN_ID.fullmatch(run_id):
            raise UserError(f"{run_id!r} is no run id. 'softprompt runs list' names them all.")
        return self.root / run_id

    # ----------------------------------------------------------------- state

    def claim(self, run_ids: Sequence[str], *, owner: str) -> bool:
        """Whether all of these runs, still queued, now belong to `owner` and are running."""
        marks = ",".join("?" * len(run_ids))
        with self._write() as db:
            free = db.execute(
                f"SELECT count(*) FROM runs WHERE run_id IN ({marks}) AND status = 'queued'", run_ids
            ).fetchone()[0]
            if free != len(run_ids):
                return False
            now = self._clock()
            db.execute(
                f"UPDATE runs SET status = 'running', owner = ?, heartbeat = ?, updated = ? "
                f"WHERE run_id IN ({marks})",
                (owner, now, now, *run_ids),
            )
        return True

    def requeue(self, run_id: str, *, owner: str) -> None:
        """Puts a run that has ended back into the queue of `owner`; nothing it has is lost.

        Raises UserError while it waits or is at work: of many who ask at once, one gets it.
        """
        now = self._clock()
        with self._write() as db:
            changed = db.execute(
                "UPDATE runs SET status = 'queued', reason = '', owner = ?, heartbeat = ?, updated = ?, "
                f"is_asked_to_stop = 0, is_asked_to_pause = 0 WHERE run_id = ? AND status IN {_ENDED_SQL}",
                (owner, now, now, run_id),
            ).rowcount
        if not changed:
            raise UserError(f"Run {run_id!r} is {self.run(run_id).status} already. Stop it before you resume it.")

    def heartbeat(self, run_ids: Sequence[str], *, owner: str, status: Status = "running") -> list[str]:
        """Says that `owner` still works on, or with status queued keeps in its queue, these runs.

        One that was taken for interrupted (the machine slept, say) gets that status back. Returns those that are
        another's by now, because they have been resumed elsewhere.
        """
        lost = []
        with self._write() as db:
            for run_id in run_ids:
                changed = db.execute(
                    "UPDATE runs SET heartbeat = ?, owner = ?, reason = iif(status = 'interrupted', '', reason), "
                    "status = iif(status = 'interrupted', iif(is_asked_to_pause, 'paused', ?), status) "
                    "WHERE run_id = ? AND (owner IS NULL OR owner = ?)",
                    (self._clock(), owner, status, run_id, owner),
                ).rowcount
                lost += [run_id] * (not changed)
        return lost

    def ask_to_stop(self, run_id: str) -> None:
        """Leaves word, for whichever process works on the run, that it should stop.

        Raises UserError when the run has ended already.
        """
        info = self.run(run_id)
        if info.status in ENDED:
            raise UserError(f"Run {run_id!r} has ended already ({info.status}); there is nothing to stop.")
        with self._write() as db:
            db.execute("UPDATE runs SET is_asked_to_stop = 1 WHERE run_id = ?", (run_id,))

    def asked_to_stop(self, run_ids: Sequence[str]) -> list[str]:
        """Those of these runs that someone has asked to stop."""
        marks = ",".join("?" * len(run_ids))
        rows = self._read().execute(
            f"SELECT run_id FROM runs WHERE is_asked_to_stop AND run_id IN ({marks})", list(run_ids)
        )
        return [row["run_id"] for row in rows]

    def ask_to_pause(self, run_id: str, *, is_paused: bool = True) -> None:
        """Leaves word, for whichever process works on the run, that it should be held, or go on again.

        Raises UserError when the run is not at work.
        """
        info = self.run(run_id)
        if info.status not in ("running", "paused"):
            what, hint = ("pause", "It can be paused") if is_paused else ("continue", "It can be unpaused")
            raise UserError(
                f"Run {run_id!r} is {info.status}; there is nothing to {what}. {hint} only while it is at work"
                + (", and resumed with 'softprompt resume'." if info.status in ENDED else ".")
            )
        with self._write() as db:
            db.execute("UPDATE runs SET is_asked_to_pause = ? WHERE run_id = ?", (is_paused, run_id))

    def asked_to_pause(self, run_ids: Sequence[str]) -> list[str]:
        """Those of these runs that someone wants to be held."""
        marks = ",".join("?" * len(run_ids))
        rows = self._read().execute(
            f"SELECT run_id FROM runs WHERE is_asked_to_pause AND run_id IN ({marks})", list(run_ids)
        )
        return [row["run_id"] for row in rows]

    def set_status(self, run_id: str, status: Status, *, reason: str = "") -> None:
        with self._write() as db:
            db.execute(
                "UPDATE runs SET status = ?, reason = ?, updated = ? WHERE run_id = ?",
                (status, reason, self._clock(), run_id),
            )

    def mark_interrupted(self, *, leave: Collection[str] = ()) -> list[str]:
        """The runs whose process has gone without ending them, now marked interrupted; never those in `leave`."""
        now, lost = self._clock(), []
        at_work = "status IN ('queued','running','paused')"
        for row in self._read().execute(
            f"SELECT run_id, owner, heartbeat, created FROM runs WHERE {at_work}"
        ).fetchall():
            beat = row["heartbeat"] or row["created"]
            if row["run_id"] not in leave and (_owner_is_gone(row["owner"]) or now - beat > LEASE_SECONDS):
                lost.append(row["run_id"])
        marked = []
        for run_id in lost:
            with self._write() as db:       # it may have ended since it was read
                changed = db.execute(
                    f"UPDATE runs SET status = 'interrupted', reason = ?, updated = ? WHERE run_id = ? AND {at_work}",
                    ("The program ended before the run did.", now, run_id),
                ).rowcount
            marked += [run_id] * changed
        return marked

    # --------------------------------------------------------------- writing

    def append(self, records: Iterable[Record]) -> None:
        """Adds what training yielded, in one transaction; prompts go to the run's folder.

        A checkpoint is written last: where there is one, everything up to its step has been kept.
        """
        records = list(records)
        for record in records:
            if isinstance(record, Snapshot):
                self._save_prompt(record)
            elif isinstance(record, Weights):
                self._save_weights(record)
            elif isinstance(record, StartRecord):
                self._void_files(record.run_id, after=0)
                write_json(self.folder(record.run_id) / "facts.json", record.facts)
            elif isinstance(record, ResumeRecord):
                self._void_files(record.run_id, after=record.step)
        now = self._clock()
        with self._write() as db:
            for record in records:
                _insert(db, record, now)
        for record in records:
            if isinstance(record, Checkpoint):
                self._save_checkpoint(record)
            elif isinstance(record, EndRecord):
                self._save_ending(record)

    def facts(self, run_id: str) -> dict[str, Any]:
        """What a run was made on (`StartRecord.facts`); empty before the run has started."""
        path = self.folder(run_id) / "facts.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def update_result(self, run_id: str, values: dict[str, Any]) -> None:
        """Adds to the result of a run that has ended."""
        result = {**self.run(run_id).result, **values}
        with self._write() as db:
            db.execute("UPDATE runs SET result = ? WHERE run_id = ?", (json.dumps(result), run_id))
        write_json(self.folder(run_id) / "result.json", result)

    def _save_prompt(self, record: Snapshot) -> None:
        folder = self.folder(record.run_id)
        if record.kind == "selected":
            write_tensors(
                folder / "prompt.safetensors", {"prompt_embeddings": record.prompt}, is_durable=True, step=record.step
            )
        if record.kind == "trajectory":
            steps, prompts = self.snapshots(record.run_id)
            keep = steps != record.step
            write_tensors(
                folder / SNAPSHOTS,
                {
                    "steps": np.append(steps[keep], record.step).astype(np.int64),
                    "prompts": np.concatenate([prompts[keep], record.prompt[None]])
                    if len(steps) else record.prompt[None],
                },
            )
        write_tensors(folder / "live.safetensors", {"prompt_embeddings": record.prompt}, step=record.step)

    def _save_weights(self, record: Weights) -> None:
        path = self.folder(record.run_id) / WEIGHTS
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, record.tensors, is_durable=True, step=record.step)

    def _save_checkpoint(self, record: Checkpoint) -> None:
        folder = self.folder(record.run_id)
        write_checkpoint(folder / CHECKPOINTS, record)
        _extend_lines(folder / METRICS, lambda after: self._metric_rows(record.run_id, after=after))
        info = self.run(record.run_id)
        write_json(folder / "result.json", {**info.result, "status": info.status, "reason": "", "steps": info.step})

    def _save_ending(self, record: EndRecord) -> None:
        folder = self.folder(record.run_id)
        with write_aside(folder / METRICS) as file:
            for row in self._metric_rows(record.run_id, after=0):
                file.write(json.dumps(row) + "\n")
        (folder / "live.safetensors").unlink(missing_ok=True)
        info = self.run(record.run_id)
        write_json(folder / "result.json", {"status": info.status, "reason": info.reason, **info.result})

    def _metric_rows(self, run_id: str, *, after: int) -> Iterator[dict[str, Any]]:
        later = "SELECT * FROM metrics WHERE run_id = ? AND step > ? ORDER BY step"
        return (dict(row) for row in self._read().execute(later, (run_id, after)))

    def _void_files(self, run_id: str, *, after: int) -> None:
        """Removes what files say of steps later than `after`, so that a resumed run has no step twice."""
        folder = self.folder(run_id)
        remove_later(folder / CHECKPOINTS, step=after)
        steps, prompts = self.snapshots(run_id)
        if (steps > after).any():
            keep = steps <= after
            write_tensors(folder / SNAPSHOTS, {"steps": steps[keep], "prompts": prompts[keep]})
        (folder / METRICS).unlink(missing_ok=True)      # the next checkpoint writes it anew

    # --------------------------------------------------------------- reading

    def metrics(self, run_id: str, *, after: int = 0, limit: int = 1_000_000) -> list[StepRecord]:
        """The steps of a run later than step `after`, in order."""
        rows = self._read().execute(
            "SELECT * FROM metrics WHERE run_id = ? AND step > ? ORDER BY step LIMIT ?", (run_id, after, limit)
        )
        return [StepRecord(**dict(row)) for row in rows]

    def evals(self, run_id: str) -> list[EvalRecord]:
        """Every evaluation of a run, in order of steps."""
        rows = self._read().execute("SELECT * FROM evals WHERE run_id = ? ORDER BY step", (run_id,))
        return [EvalRecord(**dict(row)) for row in rows]

    def logs(self, run_id: str) -> list[tuple[float, LogRecord]]:
        """What happened to a run: (seconds since 1970, record)."""
        rows = self._read().execute("SELECT * FROM logs WHERE run_id = ? ORDER BY id", (run_id,))
        return [(row["time"], LogRecord(run_id, row["level"], row["text"])) for row in rows]

    def has_prompt(self, run_id: str) -> bool:
        """Whether any prompt of this run has been kept yet."""
        folder = self.folder(run_id)
        return any((folder / f"{stem}.safetensors").exists() for stem in ("prompt", "live", "snapshots"))

    def prompt(self, run_id: str) -> FloatArray:
        """The prompt of a run, [P, H] float32: the selected one, or while it trains the newest."""
        return self.prompt_at(run_id)[1]

    def prompt_at(self, run_id: str) -> tuple[int, FloatArray]:
        """(step, prompt [P, H]): while it trains the newest, then the selected one.

        Raises UserError when the run has none yet or its file is damaged.
        """
        self.run(run_id)
        folder = self.folder(run_id)
        for stem in ("live", "prompt"):     # the live one goes when the run ends; a resumed run has both
            path = folder / f"{stem}.safetensors"
            if path.exists():
                tensors, facts = read_tensors(path)
                return int(facts.get("step", 0)), tensors["prompt_embeddings"]
        steps, prompts = self.snapshots(run_id)
        if len(steps):
            return int(steps[-1]), prompts[-1]
        method = self.config(run_id).method
        if method not in PROMPT_METHODS:
            raise UserError(
                f"Run {run_id!r} was trained with {METHOD_NAMES[method]}, which has no virtual tokens to read. "
                "It can be tested, used and exported; choose a run of the method prompt or p_tuning to read one."
            )
        raise UserError(f"Run {run_id!r} has no prompt yet. Wait for its first steps, then open it again.")

    def weights(self, run_id: str) -> Tensors:
        """What a run of another method than a soft prompt has learned, as its method takes it back.

        Raises UserError when there is nothing yet or its file is damaged.
        """
        self.run(run_id)
        path = self.folder(run_id) / WEIGHTS
        if not path.exists():
            raise UserError(f"Run {run_id!r} has no weights yet. They are kept when it ends; wait, or stop it.")
        return read_tensors(path)[0]

    def snapshots(self, run_id: str) -> tuple[np.ndarray, FloatArray]:
        """(steps [S] int64, prompts [S, P, H] float32) along training, in order; the first is the start."""
        path = self.folder(run_id) / SNAPSHOTS
        if not path.exists():
            return np.zeros(0, np.int64), np.zeros((0, 0, 0), np.float32)
        tensors, _ = read_tensors(path)
        return tensors["steps"], tensors["prompts"]

    def checkpoints(self, run_id: str) -> list[int]:
        """The steps of which a run has checkpoints, in order."""
        return checkpoint_steps(self.folder(self.run(run_id).run_id) / CHECKPOINTS)

    def checkpoint(self, run_id: str, *, step: int | None = None) -> Checkpoint | None:
        """The checkpoint of a step, or the newest whole one; None when a run has none.

        A damaged one is passed over, which the run's log says. Raises UserError when the one of the step that was
        named is missing or damaged.
        """
        folder = self.folder(self.run(run_id).run_id) / CHECKPOINTS
        if step is not None:
            return read_checkpoint(folder, run_id, step=step)
        for number in reversed(checkpoint_steps(folder)):
            try:
                return read_checkpoint(folder, run_id, step=number)
            except UserError:
                text = f"the checkpoint of step {number} is damaged and was passed over"
                self.append([LogRecord(run_id, "warning", text)])
        return None

    # -------------------------------------------------------------- database

    def _read(self) -> sqlite3.Connection:
        db = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.root / "softprompt.db", timeout=30, isolation_level=None)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            self._local.db = db
        return db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        db = self._read()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if db.in_transaction:
            db.execute("COMMIT")


def _insert(db: sqlite3.Connection, record: Record, now: float) -> None:
    if isinstance(record, StepRecord):
        if math.isfinite(record.loss):      # a loss that is no number is in the run's reason; SQLite would keep NULL
            db.execute(
                "INSERT OR REPLACE INTO metrics VALUES (?,?,?,?,?,?,?,?)",
                (record.run_id, record.step, record.epoch, record.loss, record.learning_rate,
                 record.gradient_norm, record.tokens, record.seconds),
            )
        db.execute(
            "UPDATE runs SET step = ?, updated = ? WHERE run_id = ?", (record.step, now, record.run_id)
        )
    elif isinstance(record, EvalRecord):
        db.execute(
            "INSERT OR REPLACE INTO evals VALUES (?,?,?,?,?,?,?,?)",
            (record.run_id, record.step, record.split, record.source, record.loss,
             record.accuracy, record.macro_f1, record.rows),
        )
    elif isinstance(record, StartRecord | ResumeRecord):
        after = record.step if isinstance(record, ResumeRecord) else 0
        db.execute("DELETE FROM metrics WHERE run_id = ? AND step > ?", (record.run_id, after))
        db.execute("DELETE FROM evals WHERE run_id = ? AND (step > ? OR split = 'test')", (record.run_id, after))
        db.execute("UPDATE runs SET step = ?, result = '{}', updated = ? WHERE run_id = ?", (after, now, record.run_id))
        if isinstance(record, StartRecord) and "steps" in record.facts:     # what epochs mean once rows are known
            db.execute("UPDATE runs SET steps = ? WHERE run_id = ?", (record.facts["steps"], record.run_id))
    elif isinstance(record, PauseRecord):
        db.execute(
            "UPDATE runs SET status = ?, updated = ? WHERE run_id = ? AND status IN ('running', 'paused')",
            ("paused" if record.is_paused else "running", now, record.run_id),
        )
    elif isinstance(record, LogRecord):
        db.execute(
            "INSERT INTO logs (run_id, time, level, text) VALUES (?,?,?,?)",
            (record.run_id, now, record.level, record.text),
        )
    elif isinstance(record, EndRecord):
        db.execute(
            "UPDATE runs SET status = ?, reason = ?, result = ?, updated = ? WHERE run_id = ?",
            (record.status, record.reason, json.dumps(record.result), now, record.run_id),
        )


def _run_info(row: sqlite3.Row) -> RunInfo:
    return RunInfo(
        run_id=row["run_id"], name=row["name"], status=row["status"], group_id=row["group_id"],
        created=row["created"], updated=row["updated"], config=json.loads(row["config"]),
        result=json.loads(row["result"]), reason=row["reason"], step=row["step"], steps=row["steps"],
    )


def _owner_is_gone(owner: str | None) -> bool:
    """Whether `host:pid:…` names a process of this machine that has ended."""
    host, _, rest = (owner or "").partition(":")
    pid = rest.partition(":")[0]
    if host != os.uname().nodename or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _extend_lines(path: Path, rows_after: Callable[[int], Iterable[dict[str, Any]]]) -> None:
    """Adds to a file of JSON lines the rows later than its last whole line; a part of a line is cut off."""
    with open(path, "a+b") as file:
        size = file.tell()
        file.seek(max(0, size - 65_536))
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        try:
            last, end = int(json.loads(whole.splitlines()[-1])["step"]), size - len(tail) + len(whole)
        except (IndexError, KeyError, TypeError, ValueError):     # empty, or edited by hand: from the start
            last, end = 0, 0
        file.truncate(end)
        file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows_after(last)))
