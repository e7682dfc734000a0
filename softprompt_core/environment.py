"""Process-wide settings that must stand before torch, transformers or Gradio is imported."""

from __future__ import annotations

import os

SETTINGS = {
    # Idle worker threads sleep instead of spinning. On two cores shared with anything else (the browser that shows
    # the page is enough) spinning made a training step up to twenty times slower; alone it costs next to nothing.
    "OMP_WAIT_POLICY": "PASSIVE",
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
