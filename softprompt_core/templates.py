"""Templates: plain column names in braces around fixed text; never attributes, indexes or code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from softprompt_core.errors import UserError

TEXT_FIELD = "text"


@dataclass(frozen=True)
class Template:
    """A parsed template: (fixed text, column or None) pairs in order."""

    parts: tuple[tuple[str, str | None], ...]

    def render(self, row: Mapping[str, str], *, text_column: str) -> tuple[str, list[tuple[int, int, bool]]]:
        """(rendered text, spans of its columns as (start, end, is the text column))."""
        out, spans, length = [], [], 0
        for fixed, field in self.parts:
            out.append(fixed)
            length += len(fixed)
            if field is not None:
                value = row[text_column if field == TEXT_FIELD else field]
                spans.append((length, length + len(value), field in (TEXT_FIELD, text_column)))
                out.append(value)
                length += len(value)
        return "".join(out), spans


def parse_template(template: str, *, columns: Sequence[str], answer: str | None = None) -> Template:
    """The parsed template; `{text}` always means the text column, `answer` is the column it must not show.

    Raises UserError for a column that is not there, an attribute, an index, or broken braces.
    """
    allowed = ", ".join(f"{{{c}}}" for c in dict.fromkeys((TEXT_FIELD, *columns)))
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"The template has unmatched braces ({error}). Write columns as {allowed}; double a brace to mean "
            "the character itself."
        ) from None
    parts: list[tuple[str, str | None]] = []
    for fixed, field, spec, conversion in pieces:
        if field is not None and (spec or conversion):
            field_text = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            if field_text not in columns:
                raise UserError(f"The template's {{{field_text}}} is more than a column name. Allowed are {allowed}.")
            field = field_text
        if field is not None and field == answer:
            raise UserError(
                f"The template's {{{field}}} is the label column, so the text would give the answer away. "
                f"Allowed are {allowed}."
            )
        if field is not None and field != TEXT_FIELD and field not in columns:
            if any(c in field for c in ".[]"):
                raise UserError(
                    f"The template's {{{field}}} reaches into an attribute or index; only whole columns can be "
                    f"named. Allowed are {allowed}."
                )
            given = f"{{{field}}}" if field else "an empty {}"
            raise UserError(f"The template names {given}, which is no column of the data. Allowed are {allowed}.")
        parts.append((fixed, field))
    if not any(field is not None for _, field in parts):
        raise UserError(f"The template names no column, so every row would look alike. Add one of {allowed}.")
    return Template(tuple(parts))
