"""Consuming the training generator into the store: the same code for thread, process and command line."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.records import Checkpoint, EndRecord, FloatArray, LogRecord, PauseRecord, Record, Snapshot, Weights
from softprompt_core.store import HEARTBEAT_SECONDS, Store

if TYPE_CHECKING:
    from softprompt_core.control import Control

FLUSH_SECONDS = 0.25
PASS_ROWS = 256
"""Rows of all prompts together that go through the model in one step; a single run may have more."""
OUT_OF_MEMORY = (
    "The device ran out of memory; the prompt is kept as far as it was trained. Choose a smaller batch size, fewer "
    "virtual tokens or runs at once, shorter rows, or a smaller model."
)
log = logging.getLogger(__name__)


def new_owner() -> str:
    """A name for this process in leases: machine, process, and something that no other has."""
    return f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(4)}"


def passes(runs: Mapping[str, TrainConfig]) -> list[dict[str, TrainConfig]]:
    """The runs divided into those that train together: alike in their pass settings, and not too many at once."""
    found: dict[tuple[object, ...], list[dict[str, TrainConfig]]] = {}
    for run_id, config in runs.items():
        divided = found.setdefault(config.pass_settings(), [{}])
        rows = sum(other.batch_size for other in divided[-1].values())
        is_alone = config.method != "prompt"        # it may hold a copy of the model, and shares no pass
        if divided[-1] and (is_alone or rows + config.batch_size > PASS_ROWS):
            divided.append({})
        divided[-1][run_id] = config
    return [together for divided in found.values() for together in divided]


def execute(
    store: Store,
    runs: Mapping[str, TrainConfig],
    control: Control,
    *,
    owner: str,
    on_record: Callable[[Record], None] = lambda record: None,
) -> None:
    """Trains claimed runs and keeps every record; whatever happens, each run ends with a status.

    A run that has a checkpoint goes on from it.

    A UserError becomes the run's reason; anything else is a fault, named in
    the reason and raised again for the caller to log.
    """
    with beating(store, list(runs), control, owner=owner):
        ended: set[str] = set()

        def end_the_rest(reason: str) -> None:
            ours = {run_id for run_id in runs if not control.is_lost(run_id)}
            _fail(store, ours - ended, reason, on_record)

        try:
            for record in _trained(store, runs, control):
                on_record(record)
                if isinstance(record, EndRecord):
                    ended.add(record.run_id)
        except UserError as error:
            end_the_rest(str(error))
        except Exception as error:
            if is_out_of_memory(error):
                end_the_rest(OUT_OF_MEMORY)
                return
            reason = f"A fault in the program ended the run ({type(error).__name__}); the log has the details."
            end_the_rest(reason)
            raise


def _trained(store: Store, runs: Mapping[str, TrainConfig], control: Control) -> Iterator[Record]:
    """Every record, after it has been handed to the store; kept in batches of FLUSH_SECONDS."""
    from softprompt_core.training import train

    waiting: list[Record] = []
    flushed = 0.0
    try:
        starts, resume = _starting_prompts(store, runs), _checkpoints(store, runs)
        for record in train(runs, control=control, starts=starts, resume=resume):
            resume = {}     # read by now, and perhaps as large as the model
            if control.is_lost(record.run_id):
                continue
            waiting.append(record)
            is_selected = isinstance(record, Snapshot) and record.kind == "selected"
            is_due = is_selected or isinstance(record, Weights | EndRecord | Checkpoint | PauseRecord)
            if is_due or time.monotonic() - flushed >= FLUSH_SECONDS:
                store.append(waiting)
                flushed = time.monotonic()
                waiting = []
            yield record
    finally:
        with contextlib.suppress(UserError):
            store.append(waiting)


def _starting_prompts(store: Store, runs: Mapping[str, TrainConfig]) -> dict[str, FloatArray]:
    """The prompts [P, H] of the runs that these begin at (init from_run), where they are still there."""
    found = {}
    for run_id, config in runs.items():
        if config.init_run is not None and store.has_run(config.init_run) and store.has_prompt(config.init_run):
            step, found[run_id] = store.prompt_at(config.init_run)
            if not store.checkpoints(run_id):
                text = f"begins at the prompt of run {config.init_run}, step {step}"
                store.append([LogRecord(run_id, "info", text)])
    return found


def _checkpoints(store: Store, runs: Mapping[str, TrainConfig]) -> dict[str, Checkpoint]:
    """The newest whole checkpoint of each run that has one."""
    found = {}
    for run_id in runs:
        saved = store.checkpoint(run_id)
        if saved is not None:
            found[run_id] = saved
        elif store.run(run_id).step:
            store.append([LogRecord(run_id, "warning", "there is no checkpoint to go on from; the run starts anew")])
    return found


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the accelerator or (torch gives it no type of its own) on the CPU."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fail(store: Store, run_ids: set[str], reason: str, on_record: Callable[[Record], None]) -> None:
    for run_id in sorted(run_ids):
        result = store.run(run_id).result      # of a run that was resumed in vain
        records: list[Record] = [LogRecord(run_id, "error", reason), EndRecord(run_id, "failed", reason, result)]
        store.append(records)
        for record in records:
            on_record(record)


@contextmanager
def beating(store: Store, run_ids: list[str], control: Control, *, owner: str) -> Iterator[None]:
    """Every second: tells the store that these runs are worked on, and hears who is to stop or to pause."""
    over = threading.Event()
    paused: set[str] = set()

    def beat() -> None:
        nonlocal paused
        while not over.wait(HEARTBEAT_SECONDS):
            try:
                for run_id in store.heartbeat(run_ids, owner=owner):
                    control.lose(run_id)
                for run_id in store.asked_to_stop(run_ids):
                    control.stop(run_id)
                asked = set(store.asked_to_pause(run_ids))
                for run_id in asked ^ paused:       # only what has changed: others may pause through the control
                    control.pause(run_id in asked, run_id=run_id)
                paused = asked
            except Exception:
                log.exception("heartbeat failed")

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
