"""Process-wide settings that must stand before torch, transformers or Gradio is imported."""

from __future__ import annotations

import os
from pathlib import Path

SETTINGS = {
    # How long an idle worker thread spins before it sleeps (GNU OpenMP, torch's on Linux). The default spins for
    # milliseconds: on two cores shared with anything else, the browser that shows the page for one, a training step
    # took up to twenty times longer. Sleeping at once costs 70 % on idle cores. Measured on the bundled model, batch
    # 8, ms a step on idle / shared cores: default 35 / 1,540; asleep at once 63 / 137; this value 37 / 79.
    "GOMP_SPINCOUNT": "10000",
    "GRADIO_ANALYTICS_ENABLED": "False",      # read at import; otherwise Gradio asks the network
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


def prepare_environment() -> None:
    """Sets what is not set yet; what the user has set stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def default_runs_dir() -> Path:
    """Where runs are kept when nothing is said: $SOFTPROMPT_HOME, else the folder runs."""
    return Path(os.environ.get("SOFTPROMPT_HOME") or "runs")
