"""The default runner: one background thread a device, sharing the frozen model with the page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from softprompt_core.config import TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.jobs.execute import execute, new_owner, passes
from softprompt_core.records import ENDED, EndRecord, LogRecord
from softprompt_core.sources import with_absolute_paths
from softprompt_core.store import HEARTBEAT_SECONDS, Store

log = logging.getLogger(__name__)


@dataclass
class _Job:
    """Runs that go through the model together, waiting or at work."""

    run_ids: list[str]
    configs: dict[str, TrainConfig]
    stopped: set[str]
    control: object | None = None


class ThreadRunner:
    """Queues jobs per device and runs one at a time on each; implements jobs.protocol.Runner."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owner = new_owner()
        self._changed = threading.Condition()
        self._waiting: dict[str, list[_Job]] = {}
        self._working: dict[str, _Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._is_closed = False
        self._keeper = threading.Thread(target=self._keep_queue, name="queue-heartbeat", daemon=True)
        self._keeper.start()

    def submit(self, configs: Sequence[TrainConfig]) -> list[str]:
        """The ids of new runs, in order; they train together where their settings allow it."""
        if self._is_closed:
            raise UserError("The app is closing and starts nothing new. Start it again, then train.")
        configs = [with_absolute_paths(config) for config in configs]
        run_ids = self._store.create_group(configs, owner=self._owner)
        self._enqueue(dict(zip(run_ids, configs, strict=True)))
        return run_ids

    def resume(self, run_id: str) -> None:
        """Queues a run that has ended; it goes on from its newest checkpoint, or anew where it has none."""
        if self._is_closed:
            raise UserError("The app is closing and starts nothing new. Start it again, then resume.")
        config = self._store.config(run_id)
        self._store.requeue(run_id, owner=self._owner)
        self._store.append([LogRecord(run_id, "info", "asked to resume")])
        self._enqueue({run_id: config})

    def _enqueue(self, runs: dict[str, TrainConfig]) -> None:
        placed = [
            (_place(next(iter(together.values())).device), _Job(list(together), together, set()))
            for together in passes(runs)
        ]
        with self._changed:
            for device, job in placed:
                self._waiting.setdefault(device, []).append(job)
                if device not in self._threads:
                    self._threads[device] = threading.Thread(
                        target=self._work, args=(device,), name=f"training-{device}", daemon=True
                    )
                    self._threads[device].start()
            self._changed.notify_all()

    def pause(self, run_id: str) -> None:
        """Holds a run between two steps, here or in another process; others of its pass go on."""
        self._pause(run_id, True)

    def unpause(self, run_id: str) -> None:
        """Lets a paused run go on."""
        self._pause(run_id, False)

    def _pause(self, run_id: str, is_paused: bool) -> None:
        from softprompt_core.control import Control

        self._store.ask_to_pause(run_id, is_paused=is_paused)   # whoever works on it hears within a second
        with self._changed:
            for job in self._working.values():
                if run_id in job.run_ids and isinstance(job.control, Control):
                    job.control.pause(is_paused, run_id=run_id)

    def stop(self, run_id: str) -> bool:
        """Whether the run was queued or at work, here or in another process, and has been asked to stop."""
        from softprompt_core.control import Control

        with self._changed:
            for jobs in self._waiting.values():
                for job in jobs:
                    if run_id in job.run_ids:
                        job.run_ids.remove(run_id)
                        del job.configs[run_id]
                        self._end_queued(run_id)
                        return True
            for job in self._working.values():
                if run_id in job.run_ids and run_id in job.stopped:
                    return True
                if run_id in job.run_ids:
                    job.stopped.add(run_id)
                    if isinstance(job.control, Control):
                        job.control.stop(run_id)
                    self._store.append([LogRecord(run_id, "info", "asked to stop")])
                    return True
        if self._store.run(run_id).status in ENDED:
            return False
        self._store.ask_to_stop(run_id)     # whoever works on it hears within a second
        return True

    def queue(self) -> list[str]:
        """Ids of waiting runs in the order in which they will start."""
        with self._changed:
            return [i for jobs in self._waiting.values() for job in jobs for i in job.run_ids]

    def close(self) -> None:
        """Stops everything and returns when the best prompts have been saved."""
        with self._changed:
            self._is_closed = True
            waiting = [i for jobs in self._waiting.values() for job in jobs for i in job.run_ids]
            working = [i for job in self._working.values() for i in job.run_ids]
            self._changed.notify_all()
        for run_id in waiting + working:
            self.stop(run_id)
        for thread in list(self._threads.values()):
            thread.join(timeout=60)

    def _end_queued(self, run_id: str) -> None:
        reason = "Stopped by the user before it started."
        result = self._store.run(run_id).result     # of a run that was to be resumed
        self._store.append([LogRecord(run_id, "info", reason), EndRecord(run_id, "stopped", reason, result)])

    def _work(self, device: str) -> None:
        while True:
            with self._changed:
                while not self._waiting.get(device):
                    if self._is_closed:
                        return
                    self._changed.wait()
                job = self._waiting[device].pop(0)
                self._working[device] = job
            try:
                self._run(job)
            except Exception as error:
                log.exception("a job could not be run: %s", ", ".join(job.run_ids))
                self._fail(job, error)
            finally:
                with self._changed:
                    self._working.pop(device, None)

    def _run(self, job: _Job) -> None:
        from softprompt_core.control import Control

        if not job.run_ids or not self._store.claim(job.run_ids, owner=self._owner):
            return
        with self._changed:
            job.control = control = Control()
            for run_id in job.stopped:
                control.stop(run_id)
        execute(self._store, job.configs, control, owner=self._owner)

    def _fail(self, job: _Job, error: Exception) -> None:
        """Ends the runs of a job that could not even be started, or whose end could not be saved.

        Not those that have ended before and wait to be resumed, or that another process goes on with.
        """
        from softprompt_core.control import Control

        reason = f"A fault in the program ended the run ({type(error).__name__}); the log has the details."
        for run_id in job.run_ids:
            try:
                status, control = self._store.run(run_id).status, job.control
                has_left = isinstance(control, Control) and (status == "queued" or control.is_lost(run_id))
                if status not in ENDED and not has_left:
                    self._store.set_status(run_id, "failed", reason=reason)
            except Exception:
                log.exception("the end of run %s could not be saved", run_id)

    def _keep_queue(self) -> None:
        """Says every second that runs not yet started will be; notices whose process has gone."""
        while not self._is_closed:
            with self._changed:
                self._changed.wait(HEARTBEAT_SECONDS)
                ours = [*(job for jobs in self._waiting.values() for job in jobs), *self._working.values()]
                waiting = [i for job in ours if job.control is None for i in job.run_ids]
                known = {i for job in ours for i in job.run_ids}
            try:
                if waiting:
                    self._store.heartbeat(waiting, owner=self._owner, status="queued")
                    for run_id in self._store.asked_to_stop(waiting):
                        self.stop(run_id)
                self._store.mark_interrupted(leave=known)
            except Exception:
                log.exception("heartbeat of the queue failed")


def _place(device: str) -> str:
    """The physical device that a setting means, so that 'auto' and 'cpu' wait for one another."""
    from softprompt_core.models import choose_device

    try:
        place = choose_device(device)
    except UserError:
        return device       # the run itself will say so
    return "cuda:0" if place.type == "cuda" and place.index is None else str(place)
