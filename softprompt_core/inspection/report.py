"""A whole inspection as one HTML page that needs nothing else: style and pictures are inside, nothing is fetched.

Pure functions from documents to text. Everything that comes from data passes `html.escape`; pictures are SVG drawn
from numbers, in colours that follow the reader's light or dark setting.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softprompt_core.inspection.tables import TABLES, table

Document = Mapping[str, Any]
WIDTH = 640
_HIDDEN = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
TITLES = {
    "ladder": ("What survives when it is read as words", "Tells you whether the nearest words do what the prompt does: "
               "they are put in its place and tested. Does not tell you why they work."),
    "signature": ("What it makes the model say", "Tells you which words the prompt makes likelier or less likely as "
                  "the answer. Does not tell you which virtual token does it, nor what the prompt “means”."),
    "tokens": ("What each virtual token does", "Tells you how much worse the model does without a token, in three "
               "ways that often disagree. Does not tell you what tokens do together."),
    "attributions": ("Integrated gradients", "Tells you how the prompt’s gain is shared out along a straight way from "
                     "the mean word. Does not tell you what another way would give."),
    "attention": ("Where the model looks", "Tells you which share of attention goes to the prompt where the answer "
                  "begins. Does not tell you that what is looked at is used."),
    "says_of_itself": ("What it says of itself", "Tells you what the model answers when the prompt stands in a "
                       "sentence, and how much of its effect that text brings back. An answer counts only when it "
                       "beats the same questions put to other vectors."),
}
KINDS = {
    "soft": "The prompt itself", "pez": "Words found by search (PEZ)", "nearest": "Its nearest words",
    "start": "The start, before training", "start_words": "The start’s nearest words", "random": "Random words",
    "hand_written": "Written by hand", "no_prompt": "No prompt",
}
BANDS = {
    "readable": "Can be read", "partial": "Read in part", "do_not_read": "Do not read",
    "not_measurable": "Not measurable",
}
TERMS = {
    "retention": "kept by the words", "above_null": "above chance", "stability": "seeds agree",
    "echo": "echo of the start", "retention_of_change": "kept of what training added",
}
WAYS = {
    "mask": "Hidden from attention: added loss", "deletion": "Taken out: added loss",
    "mean": "Replaced by the mean word: added loss",
}
MOST_TABLE_ROWS = 400
LONG = 16
STYLE = """
:root { color-scheme: light dark; --ink: #1a1d25; --quiet: #5f6777; --line: #d5d9e0; --paper: #ffffff; --wash: #f3f5f8;
  --accent: #0f766e; --near: #c2410c; --warn: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #eef0f4; --quiet: #a5adbb; --line: #383d4a; --paper: #13151b;
  --wash: #1a1d25; --accent: #2dd4bf; --near: #fdba74; --warn: #fdba74; } }
body { margin: 0 auto; padding: 28px clamp(14px, 4vw, 40px) 60px; max-width: 900px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 34px 0 6px; } p { margin: 6px 0; }
.quiet, small { color: var(--quiet); font-size: 13px; } .score { font-size: 44px; font-weight: 680; line-height: 1.2; }
.trust { border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; margin: 18px 0; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px 18px; margin: 10px 0; }
dt { color: var(--quiet); font-size: 12px; } dd { margin: 0; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 4px 14px 4px 0; border-top: 1px solid var(--line);
  overflow-wrap: normal; }
td.long { min-width: 210px; overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 500; border: 0; white-space: nowrap; }
svg { display: block; width: 100%; min-width: 500px; max-width: 760px; height: auto; margin: 10px 0; }
summary { cursor: pointer; color: var(--quiet); font-size: 13px; } q { background: var(--wash); padding: 2px 6px; }
.warn { border-left: 3px solid var(--warn); padding: 6px 12px; background: var(--wash); }
svg text { fill: var(--ink); font-size: 13px; } svg .q { fill: var(--quiet); font-size: 12px; }
svg .bar { fill: var(--quiet); } svg .accent { fill: var(--accent); } svg .near { fill: var(--near); }
svg .track { fill: var(--wash); stroke: var(--line); } svg .rule { stroke: var(--line); }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; } svg .faint { opacity: .45; }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 2; }
"""


def report(document: Document, *, title: str, line: str = "", facts: Iterable[Sequence[str]] = ()) -> str:
    """The page of an `inspect` document with its readings; facts: (name, value) pairs that stand on top."""
    readings = {name: found for name, found in (document.get("readings") or {}).items() if found}
    parts = [
        f"<h1>{_text(title)}</h1>", f"<p>{_text(line)}</p>" if line else "", _facts(facts),
        _trust(document["trust"]), _words(document["tokens"]), _map(document),
    ]
    for name, (heading, worth) in TITLES.items():
        found = readings.get(name)
        parts.append(f"<h2>{_text(heading)}</h2>")
        if found is None:
            parts.append('<p class="quiet">Not measured.</p>')
        elif "reason" in found:
            parts.append(f'<p class="warn">{_text(found["reason"])}</p>')
        else:
            parts += [f'<p class="quiet">{_text(worth)}</p>', PICTURES[name](found), _tables(name, found)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _text(value: object) -> str:
    """Foreign text as HTML: escaped, with marks that would turn a line round named."""
    shown = _HIDDEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", str(value))
    return html.escape(shown, quote=True)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _facts(pairs: Iterable[Sequence[str]]) -> str:
    found = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in pairs)
    return f"<dl>{found}</dl>" if found else ""


def _trust(found: Document) -> str:
    score = "–" if found["score"] is None else f"{found['score']:.0f}<small> / 100</small>"
    limiting = f", limited by: {_text(TERMS[found['limiting']])}" if found["limiting"] in TERMS else ""
    band = f"<p><b>{_text(BANDS.get(found['band'], 'Not measured'))}</b>{limiting}</p>"
    found = {**found, "stability": None if found["stability"] is None else max(0.0, found["stability"])}
    low = "" if found["retention_low"] is None else f" (at least {_percent(found['retention_low'])})"
    terms = [
        (name, _percent(found[key]) + (low if key == "retention" else "")) for key, name in TERMS.items()
    ]
    return (
        '<section class="trust"><h2 style="margin-top:0">Trust in the nearest words</h2>'
        f'<div class="score">{score}</div>'
        f"{band}<p>{_text(found['sentence'])}</p>{_facts(terms)}</section>"
    )


def _words(tokens: Sequence[Document]) -> str:
    rows = [
        [
            token["index"] + 1, ", ".join(f"{n['token']} {n['score']:.2f}" for n in token["neighbours"]),
            "" if token["z"] is None else f"{token['z']:.1f}",
            "" if token["norm_percentile"] is None else f"{token['norm_percentile']:.0f}",
            "" if token["echo"] is None else "echoes the start" if token["echo"] else "new",
        ]
        for token in tokens
    ]
    head = ["token", "nearest words", "z", "norm percentile", "start"]
    worth = (
        "Tells you which words each vector resembles; z below 3 is what chance would give. Does not tell you what the "
        "prompt does: a prompt can be trained to spell any words and work the same."
    )
    return f'<h2>Nearest words</h2><p class="quiet">{worth}</p>{_table(head, rows)}'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows[:MOST_TABLE_ROWS]
    )
    more = len(rows) - MOST_TABLE_ROWS
    left = f'<p class="quiet">{more:,} more rows are in the CSV and JSON files.</p>' if more > 0 else ""
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>{left}'


def _cell(value: Any) -> str:
    kind = ' class="long"' if isinstance(value, str) and len(value) > LONG else ""
    return f"<td{kind}>{_figure(value)}</td>"


def _tables(reading: str, found: Document) -> str:
    parts = []
    for name, (of, _) in TABLES.items():
        if of == reading:
            shown = name.replace("_", " ")
            parts.append(f"<details><summary>Table: {shown}</summary>{_table(*table(name, found))}</details>")
    return "".join(parts)


# ----------------------------------------------------------------- pictures


def _svg(height: float, marks: Iterable[str], *, label: str) -> str:
    return (
        f'<div class="wide"><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{_text(label)}">'
        f'{"".join(marks)}</svg></div>'
    )


def _words_at(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{_text(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{max(width, 0.5):.1f}" height="{max(height, 0.5):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="2" class="{kind}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _ladder(found: Document) -> str:
    marks: list[str] = []
    y = 0.0
    for rung in found["rungs"]:
        kind = {"soft": "accent", "nearest": "near"}.get(rung["kind"], "bar")
        low, high = (WIDTH * min(1.0, max(0.0, rung[f"accuracy_{end}"])) for end in ("low", "high"))
        marks += [
            _words_at(0, y + 14, KINDS.get(rung["kind"], rung["kind"])),
            _words_at(WIDTH, y + 14, f"{_percent(rung['accuracy'])}   loss {rung['loss']:.2f}", anchor="end"),
            _rect(0, y + 21, WIDTH, 9, "track"), _rect(0, y + 21, WIDTH * rung["accuracy"], 9, kind),
            _line(low, y + 25.5, high, y + 25.5, "whisker"), _line(low, y + 20, low, y + 31, "whisker"),
            _line(high, y + 20, high, y + 31, "whisker"),
        ]
        y += 32
        if rung["text"]:
            text = str(rung["text"])
            marks.append(_words_at(0, y + 13, text if len(text) <= 96 else text[:95] + "…", kind="q"))
            y += 16
        y += 12
    caption = f"Accuracy on {found['rows']} test rows with 95 % intervals; random words: {found['draws']} draws."
    return _svg(y, marks, label="Accuracy of what stands in the prompt’s place") + f'<p class="quiet">{caption}</p>'


def _columns(title: str, values: Sequence[float], lows: Sequence[float] = (), highs: Sequence[float] = ()) -> str:
    top, tall, wide = 20, 70, WIDTH / max(1, len(values))
    low, high = min(0.0, *values, *lows), max(0.0, *values, *highs)
    reach = (high - low) or 1.0
    place = [top + tall * (high - value) / reach for value in (*values, *lows, *highs, 0.0)]
    zero, count = place[-1], len(values)
    marks = [_words_at(0, 13, title), _line(0, zero, WIDTH, zero)]
    for n, value in enumerate(values):
        sure = not lows or lows[n] > 0 or highs[n] < 0
        kind = ("accent" if value >= 0 else "near") if sure else "bar faint"
        x, thick = (n + 0.5) * wide, min(26.0, 0.62 * wide)
        marks.append(_rect(x - thick / 2, min(zero, place[n]), thick, abs(zero - place[n]), kind))
        if lows:
            marks.append(_line(x, place[count + n], x, place[2 * count + n], "whisker"))
        if n % max(1, round(24 / wide)) == 0:
            marks.append(_words_at(x, top + tall + 16, str(n + 1), kind="q", anchor="middle"))
    return _svg(top + tall + 22, marks, label=title)


def _tokens(found: Document) -> str:
    parts = []
    for way, title in WAYS.items():
        of = sorted((a for a in found["ablations"] if a["way"] == way), key=lambda a: a["index"])
        parts.append(_columns(title, *([a[key] for a in of] for key in ("delta", "low", "high"))))
    kept = [c["accuracy"] for c in found["cumulative"]]
    order = found["order"]
    lost = order["loss_of_accuracy"]
    costs = f"costs {_percent(lost)} of accuracy on average" if lost > 0 else "costs no accuracy"
    said = f"Shuffling the tokens {costs} ({len(order['shuffled'])} shuffles)."
    parts.append(_curve("Accuracy with only the most needed tokens left, from none to all", kept))
    return "".join(parts) + f"<p>{_text(said)}</p>"


def _curve(title: str, values: Sequence[float]) -> str:
    tall, left = 110, 44
    step = (WIDTH - left - 8) / max(1, len(values) - 1)
    at = [24 + tall * (1 - value) for value in values]
    marks = [_words_at(0, 13, title)]
    for share in (0.0, 0.5, 1.0):
        y = 24 + tall * (1 - share)
        marks += [_line(left, y, WIDTH - 8, y), _words_at(left - 6, y + 4, f"{share:.0%}", kind="q", anchor="end")]
    points = " ".join(f"{left + n * step:.1f},{y:.1f}" for n, y in enumerate(at))
    marks.append(f'<polyline points="{points}" class="curve"/>')
    return _svg(24 + tall + 10, marks, label=title)


def _attributions(found: Document) -> str:
    if not found["is_complete"]:
        return (
            f'<p class="warn">The attributions miss their sum by {_percent(found["error"])} after {found["steps"]} '
            "steps, so no ranking is drawn.</p>"
        )
    title = f"Share of the gain, in nats; adds up within {_percent(found['error'])}"
    return _columns(title, found["attribution"])


def _attention(found: Document) -> str:
    grid = found["by_layer_and_head"]
    most = max((value for row in grid for value in row), default=0.0) or 1.0
    left, wide = 60.0, min(50.0, (WIDTH - 60) / max(1, len(grid[0])))
    tall = min(26.0, wide)
    marks = [_words_at(left, 13, f"head 1 … {len(grid[0])}", kind="q")]
    for n, row in enumerate(grid):
        y = 20 + n * tall
        marks.append(_words_at(left - 8, y + tall / 2 + 4, f"layer {n + 1}", kind="q", anchor="end"))
        for head, value in enumerate(row):
            size = f'width="{wide - 2:.1f}" height="{tall - 2:.1f}" rx="2" class="accent"'
            shown = f'fill-opacity="{0.05 + 0.95 * value / most:.3f}"'
            name = f"<title>layer {n + 1}, head {head + 1}: {_percent(value)}</title>"
            marks.append(f'<rect x="{left + head * wide:.1f}" y="{y:.1f}" {size} {shown}>{name}</rect>')
    label = "Attention to the prompt by layer and head"
    return _svg(24 + len(grid) * tall, marks, label=label) + f'<p class="quiet">Darkest: {_percent(most)}.</p>'


def _signature(found: Document) -> str:
    rows = [*found["raised"], *found["lowered"]]
    most = max((abs(word["score"]) for word in rows), default=0.0) or 1.0
    middle, marks = WIDTH / 2, []
    for n, word in enumerate(rows):
        y, size, up = n * 20.0, (WIDTH / 2 - 60) * abs(word["score"]) / most, word["score"] > 0
        marks += [
            _rect(middle if up else middle - size, y + 4, size, 11, "accent" if up else "near"),
            _words_at(middle - 8 if up else middle + 8, y + 14, word["token"], anchor="end" if up else "start"),
            _words_at(
                middle + size + 6 if up else middle - size - 6, y + 14, f"{word['score']:+.1f}", kind="q",
                anchor="start" if up else "end",
            ),
        ]
    said = f"<p>Left to itself after the prompt alone, the model writes <q>{_text(found['continued'])}</q></p>"
    return (_svg(len(rows) * 20 + 4, marks, label="Words made likelier and less likely") if rows else "") + said


def _says(found: Document) -> str:
    answers = found["answers"]
    best: Document = answers[0] if answers else {"recovery": None, "text": ""}
    if found["says_something"]:
        said = (
            f"Its best answer, “{best['text']}”, recovers {_percent(best['recovery'])} of the effect, more than any "
            f"control ({_percent(found['best_control'])})."
        )
    else:
        said = (
            f"No answer beats the controls (best {_percent(best['recovery'])}, best control "
            f"{_percent(found['best_control'])}), so none of them says anything about this prompt."
        )
    return f'<p class="warn">{_text(said)}</p>'


def _map(document: Document) -> str:
    points = document["projection"]["points"]
    if not points:
        return ""
    tall, pad = 320.0, 24.0
    spans = [(min(p[axis] for p in points), max(p[axis] for p in points)) for axis in ("x", "y")]

    def at(value: float, axis: int, size: float) -> float:
        low, high = spans[axis]
        return pad + (size - 2 * pad) * ((value - low) / (high - low) if high > low else 0.5)

    marks = [_rect(0.5, 0.5, WIDTH - 1, tall - 1, "track")]
    for point in points:
        x, y = at(point["x"], 0, WIDTH), tall - at(point["y"], 1, tall)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="accent"/>')
        marks.append(_words_at(x + 6, y + 4, str(point["index"] + 1), kind="q"))
    explained = sum(document["projection"]["explained_variance"][:2])
    share = sum(point["share_in_plane"] for point in points) / len(points)
    said = (
        f"The virtual tokens on the vocabulary’s first two principal axes, which hold {_percent(explained)} of its "
        f"variance; {_percent(share)} of a token lies in this picture on average, so distances can mislead."
    )
    picture = _svg(tall, marks, label="Virtual tokens on the vocabulary’s axes")
    return f'<h2>Map</h2>{picture}<p class="quiet">{said}</p>'


PICTURES = {
    "ladder": _ladder, "signature": _signature, "tokens": _tokens, "attributions": _attributions,
    "attention": _attention, "says_of_itself": _says,
}
