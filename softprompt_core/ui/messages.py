"""What the page says when something goes wrong, and how foreign text is shown without becoming markup."""

from __future__ import annotations

import functools
import html
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from softprompt_core.errors import UserError

LOG_FILE = "app.log"
TOAST_SECONDS = 20
_MARKUP = re.compile(r"[^\w\s,;:?–—…’‘“”]")

_HIDDEN = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")

log = logging.getLogger("softprompt.app")


def plain(text: object) -> str:
    """Text whose direction marks, which could turn a whole line round, are named instead."""
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", str(text))


def escape(text: object) -> str:
    """Text for a toast or Markdown: every mark that HTML or Markdown could read becomes an entity."""
    return _MARKUP.sub(lambda found: f"&#{ord(found.group())};", plain(text)).replace("_", "&#95;")


def as_html(text: object) -> str:
    """Text for `gr.HTML(value=…)` with its default `${value}` template.

    Never use a `{{value}}` template for foreign text: what it gives is run as a JavaScript template literal.
    """
    return html.escape(plain(text), quote=True)


def notice(text: object, *, kind: str = "error") -> str:
    """A lasting message for a `gr.HTML`; `kind` is error or hint."""
    role = "alert" if kind == "error" else "note"
    return f'<p class="sp-notice sp-{kind}" role="{role}">{as_html(text)}</p>'


def keep_log(root: Path) -> Path:
    """Where the page's log is; afterwards unexpected errors are written there."""
    path = root / LOG_FILE
    if not any(getattr(handler, "baseFilename", None) == str(path.resolve()) for handler in log.handlers):
        handler = logging.FileHandler(path, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
    return path


def sentence(error: Exception, *, root: Path, doing: str) -> str:
    """What the user reads of an error; anything but a UserError goes to the log with its traceback."""
    if isinstance(error, UserError):
        return str(error)
    log.error("While %s", doing, exc_info=error)
    return f"Something went wrong while {doing} ({type(error).__name__}). Details are in {root / LOG_FILE}."


def guarded(root: Path, doing: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for handlers: an error becomes one toast, and every output stays as it was."""

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def run(*args: Any) -> Any:
            try:
                return handler(*args)
            except Exception as error:
                title = "Please check" if isinstance(error, UserError) else "Unexpected error"
                gr.Warning(
                    escape(sentence(error, root=root, doing=doing)), duration=TOAST_SECONDS, title=title
                )
                return gr.skip()

        return run

    return decorate
