"""Text made visible: what a token holds, shown so that no character can hide, and nothing is markup."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

MAX_SHOWN = 60
"""Characters of visible text, the ellipsis included."""

Style = Literal["byte_level", "metaspace", "wordpiece"]
"""How a tokenizer spells spaces: Ġ for the byte 0x20 (GPT-2), ▁ (SentencePiece), or ## for no space
before."""

_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols whose glyph is empty."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling(NamedTuple):
    """One vocabulary entry: its exact characters (None when it holds none), and the same made visible."""

    text: str | None
    shown: str


def visible(text: str) -> str:
    """The text on one line with nothing hidden, at most 60 characters.

    Spaces at the start become ␣, newlines ⏎, tabs ⇥; control, bidirectional, zero-width and other blank
    characters are named like ⟨U+202E⟩; a mark without a letter before it sits on a dotted circle.
    """
    pieces: list[str] = []
    length = 0
    at_start = True
    for at, character in enumerate(text):
        if character == "\r" and text[at + 1 : at + 2] == "\n":
            continue
        at_start = at_start and character == " "
        piece = "␣" if at_start else _piece(character)
        if not pieces and unicodedata.category(character)[0] == "M":
            piece = "◌" + piece
        length += len(piece)
        pieces.append(piece)
        if length > MAX_SHOWN:
            return _cut(pieces)
    return "".join(pieces)


def token_text(tokenizer: Any, id: int) -> str:
    """The visible text of one vocabulary entry; bytes that form no character are shown like <0xE2>."""
    return spellings(tokenizer, [id])[0].shown


def spellings(tokenizer: Any, ids: Sequence[int]) -> list[Spelling]:
    """What each id holds. Ids that the tokenizer does not know are shown like ⟨id 50300⟩."""
    style = token_style(tokenizer)
    known = len(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens([int(i) if 0 <= i < known else 0 for i in ids])
    found = []
    for id, token in zip(ids, tokens, strict=True):
        if token is None or not 0 <= id < known:
            found.append(Spelling(None, f"⟨id {id}⟩"))
            continue
        spelling = _spelling(token, style)
        found.append(spelling if spelling.shown else Spelling(spelling.text, f"⟨id {id}⟩"))
    return found


def token_style(tokenizer: Any) -> Style:
    """How the tokenizer spells spaces, told from how it splits two letters."""
    pieces = "".join(tokenizer.tokenize("a a"))
    if "Ġ" in pieces:
        return "byte_level"
    return "metaspace" if "▁" in pieces else "wordpiece"


def is_whole_word(text: str, style: Style) -> bool:
    """Whether an entry is a word from its first letter: letters, apostrophes and hyphens after a word's
    start.

    A word's start is a space (byte_level, metaspace) or the absence of ## (wordpiece).
    """
    if style == "wordpiece":
        body = text
    elif text.startswith(" "):
        body = text[1:]
    else:
        return False
    return body[:1].isalpha() and all(c in "'\u2019-" or unicodedata.category(c)[0] in "LM" for c in body)


def _spelling(token: str, style: Style) -> Spelling:
    if style == "byte_level":
        alphabet = byte_alphabet()
        if any(c not in alphabet for c in token):
            return Spelling(token, visible(token))
        text = bytes(alphabet[c] for c in token).decode("utf-8", errors="surrogateescape")
        if any("\udc80" <= c <= "\udcff" for c in text):
            return Spelling(None, _with_loose_bytes(text))
        return Spelling(text, visible(text))
    if style == "metaspace":
        if match := _BYTE_TOKEN.fullmatch(token):
            byte = int(match[1], 16)
            return Spelling(chr(byte) if byte < 0x80 else None, token)
        token = token.replace("▁", " ")
    return Spelling(token, visible(token))


def _with_loose_bytes(text: str) -> str:
    """Visible text whose surrogate-escaped bytes are shown like <0xE2>."""
    parts = re.split(r"([\udc80-\udcff])", text)
    return "".join(
        f"<0x{ord(part) - 0xDC00:02X}>" if re.fullmatch(r"[\udc80-\udcff]", part) else visible(part)
        for part in parts
    )


def _piece(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character == "\t":
        return "⇥"
    category = unicodedata.category(character)
    hidden = category[0] == "C" or (category[0] == "Z" and character != " ") or character in _BLANK_LETTERS
    return f"⟨U+{ord(character):04X}⟩" if hidden else character


def _cut(pieces: list[str]) -> str:
    """The pieces that fit with an ellipsis, none of them broken."""
    while sum(map(len, pieces)) > MAX_SHOWN - 1:
        pieces = pieces[:-1]
    return "".join(pieces) + "…"


@cache
def byte_alphabet() -> dict[str, int]:
    """The byte each character of a byte-level vocabulary stands for (GPT-2's bytes_to_unicode, reversed)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
