"""What page and command line may ask of a runner, however it runs its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from softprompt_core.config import TrainConfig


class Runner(Protocol):
    """Starts runs, stops them, and says what is at work; records reach the store, never the caller."""

    def submit(self, configs: Sequence[TrainConfig]) -> list[str]:
        """The ids of new runs, returned at once; several settings train together as one group."""

    def resume(self, run_id: str) -> None:
        """Queues a run that has ended: it goes on from its newest checkpoint, or anew where it has none.

        Raises UserError while it waits or is at work. `operations.prepare_resume` checks and changes its settings.
        """

    def pause(self, run_id: str) -> None:
        """Holds a run between two steps; others go on. Raises UserError when it is not at work."""

    def unpause(self, run_id: str) -> None:
        """Lets a paused run go on. Raises UserError when it is not at work."""

    def stop(self, run_id: str) -> bool:
        """Whether the run was queued or at work and has been asked to stop; its best prompt is kept."""

    def queue(self) -> list[str]:
        """The ids of the runs that wait, in the order in which they will start."""

    def close(self) -> None:
        """Stops what runs and returns when it has been saved."""
