"""What the model will see: rendered rows token by token, and what becomes of the data, as safe markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_core.ui.messages import as_html

if TYPE_CHECKING:
    from softprompt_core.preflight import Preflight
    from softprompt_core.tokenising import Preview, PreviewToken

ROLES = {
    "virtual": "virtual token (learned)",
    "template": "template",
    "text": "text of the row",
    "label": "label (what it must predict)",
}


def preview_html(preview: Preview, *, has_virtual: bool = True) -> str:
    """Counts, a legend and the rows of a preview; all foreign text escaped.

    has_virtual: whether virtual tokens stand before a row, which not every method has.
    """
    shown = [[token for token in row if has_virtual or token.role != "virtual"] for row in preview.rows]
    rows = "".join(f'<li class="sp-row">{_row(row)}</li>' for row in shown)
    listed = f'<ol class="sp-rows" aria-label="Rows as token sequences">{rows}</ol>'
    return _facts(preview) + _legend(has_virtual) + listed


def _row(tokens: list[PreviewToken]) -> str:
    """One row; a run of virtual tokens is shown as one box, for only their number says anything."""
    parts: list[str] = []
    virtual = sum(1 for token in tokens if token.role == "virtual")
    if virtual:
        parts.append(f'<span class="sp-tok sp-virtual">{virtual} × virtual token</span>')
    for token in tokens:
        if token.role == "virtual":
            continue
        parts.append(f'<span class="sp-tok sp-{as_html(token.role)}">{as_html(token.text)}</span>')
        if token.text.endswith("⏎"):
            parts.append("<br>")
    return "".join(parts)


def _legend(has_virtual: bool) -> str:
    entries = "".join(
        f'<span class="sp-key"><span class="sp-tok sp-{role}">{"ab"}</span> {name}</span>'
        for role, name in ROLES.items() if has_virtual or role != "virtual"
    )
    return f'<div class="sp-legend">{entries}</div>'


def _facts(preview: Preview) -> str:
    sizes = " · ".join(f"{_count(number)} {as_html(split)}" for split, number in preview.split_sizes.items())
    most = sorted(preview.label_counts.items(), key=lambda item: -item[1])
    labels = ", ".join(f"<b>{as_html(label)}</b> {_count(number)}" for label, number in most[:8])
    if len(most) > 8:
        labels += f" and {len(most) - 8} more"
    entries = [
        ("rows", sizes),
        (f"{len(most)} labels", labels),
        ("tokens a row", f"{preview.median_tokens} median, {preview.longest_tokens} longest"),
        ("left out", _loss(preview.dropped_rows, "dropped: no text or no label")),
        ("shortened", _loss(preview.cut_rows, "cut at the left to fit")),
    ]
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in entries)
    return f'<dl class="sp-facts">{boxes}</dl>'


def _loss(rows: int, what: str) -> str:
    return f'<span class="sp-warn">⚠ {_count(rows)} {what}</span>' if rows else "none"


def _count(number: int) -> str:
    return f"{number:,}"


def preflight_html(found: Preflight) -> str:
    """What a run will come to: a table, and what is likely a slip; all foreign text escaped."""
    rows = "".join(f"<tr><th>{as_html(what)}</th><td>{as_html(value)}</td></tr>" for what, value in found.rows)
    warnings = "".join(f"<li>{as_html(text)}</li>" for text in found.warnings)
    listed = f'<ul class="sp-warnings" aria-label="Warnings">{warnings}</ul>' if warnings else (
        '<p class="sp-fine">✓ Nothing looks like a slip.</p>'
    )
    basis = "Time and memory were measured on a few steps." if found.is_measured else "Time and memory are estimates."
    return (
        f'<section class="sp-check" aria-label="Check before training">{listed}<div class="sp-scroll"><table>'
        f"<tbody>{rows}</tbody></table></div><p>{basis}</p></section>"
    )
