"""Foreign text never becomes markup, and errors become sentences."""

from __future__ import annotations

from pathlib import Path

from softprompt_core.errors import UserError
from softprompt_core.ui import messages

HOSTILE = "</s> <img src=x> *bold* _x_ [a](b) `c` ${1} {{2}} & \"q\" 'r' # - |"


def test_escaped_text_has_no_mark_that_markup_reads() -> None:
    import html

    escaped = messages.escape(HOSTILE)
    assert html.unescape(escaped) == HOSTILE
    assert not set("<>*_[]`${}|\"'") & set(escaped)


def test_marks_that_turn_lines_round_are_named() -> None:
    assert messages.as_html("a\u202eb<") == "a⟨U+202E⟩b&lt;"
    assert "202E" in messages.escape("a\u202eb")


def test_user_errors_are_shown_and_others_logged(tmp_path: Path) -> None:
    path = messages.keep_log(tmp_path)
    assert messages.sentence(UserError("Give a file."), root=tmp_path, doing="reading") == "Give a file."
    try:
        raise KeyError("secret")
    except KeyError as error:
        shown = messages.sentence(error, root=tmp_path, doing="reading the file")
    assert "reading the file" in shown
    assert str(path) in shown
    assert "secret" not in shown
    assert "secret" in path.read_text(encoding="utf-8")
    messages.log.handlers.clear()
