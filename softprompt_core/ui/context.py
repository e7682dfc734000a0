"""What every tab is given: the store, the runner, and the settings the app was started with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from softprompt_core.jobs.protocol import Runner
from softprompt_core.store import Store
from softprompt_core.studies import Readings


@dataclass(frozen=True)
class Context:
    """Built once by app.py and handed to each tab's `build`."""

    store: Store
    runner: Runner
    device: str = "auto"

    @cached_property
    def readings(self) -> Readings:
        """The readings that need the model, made in the background."""
        return Readings(self.store)
