"""What page and command line may ask of a runner, however it runs its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from softprompt_core.config import TrainConfig


class Runner(Protocol):
    """Starts runs, stops them, and says what is at work; records reach the store, never the caller."""

    def submit(self, configs: Sequence[TrainConfig]) -> list[str]:
        """The ids of new runs, returned at once; several settings train together as one group."""

    def stop(self, run_id: str) -> bool:
        """Whether the run was queued or at work and has been asked to stop; its best prompt is kept."""

    def queue(self) -> list[str]:
        """The ids of the runs that wait, in the order in which they will start."""

    def close(self) -> None:
        """Stops what runs and returns when it has been saved."""
