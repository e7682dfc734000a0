"""Starts the soft-prompt workbench: `python app.py --help` lists the options."""

from __future__ import annotations

from softprompt_core.ui.launch import main

if __name__ == "__main__":
    raise SystemExit(main())
