"""What every tab is given: the store, the runner, and the settings the app was started with."""

from __future__ import annotations

from dataclasses import dataclass

from softprompt_core.jobs.protocol import Runner
from softprompt_core.store import Store


@dataclass(frozen=True)
class Context:
    """Built once by app.py and handed to each tab's `build`."""

    store: Store
    runner: Runner
    device: str = "auto"
