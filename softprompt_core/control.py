"""How a caller answers training while it runs: stop one run or all, pause, go on."""

from __future__ import annotations

import threading
from collections.abc import Collection


class Control:
    """What a caller may ask of training while it runs; safe to use from any thread."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._stops_all = False
        self._paused: set[str] = set()
        self._pauses_all = False
        self._lost: set[str] = set()
        self._changed = threading.Condition()

    def stop(self, run_id: str) -> None:
        """Ends one run after its present step; its best prompt is kept."""
        with self._changed:
            self._stopped.add(run_id)
            self._changed.notify_all()

    def stop_all(self) -> None:
        # no lock: a signal handler calls this, perhaps while its own thread holds the lock
        self._stops_all = True

    def lose(self, run_id: str) -> None:
        """Ends one run here, because another process goes on with it; what it still yields is not to be kept."""
        self._lost.add(run_id)
        self.stop(run_id)

    def pause(self, is_paused: bool, *, run_id: str | None = None) -> None:
        """Holds this run, or every run, between two steps, or lets it go on."""
        with self._changed:
            if run_id is None:
                self._pauses_all = is_paused
            elif is_paused:
                self._paused.add(run_id)
            else:
                self._paused.discard(run_id)
            self._changed.notify_all()

    def is_paused(self, run_id: str) -> bool:
        return self._pauses_all or run_id in self._paused

    def is_stopped(self, run_id: str) -> bool:
        return self._stops_all or run_id in self._stopped

    def is_lost(self, run_id: str) -> bool:
        return run_id in self._lost

    def wait_while_paused(self, run_ids: Collection[str]) -> None:
        """Returns when one of these runs may go on or is to stop."""
        with self._changed:
            while all(self.is_paused(run_id) and not self.is_stopped(run_id) for run_id in run_ids):
                self._changed.wait(timeout=0.2)
