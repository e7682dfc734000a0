"""The report: complete, self-contained, and harmless whatever words, names and answers it holds."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from softprompt_core.inspection.report import report
from softprompt_core.inspection.tables import TABLES, table

HOSTILE = '<img src="http://x.test/a.png" onerror=alert(1)>"\'&amp;</svg></style><script>'
WITHOUT_CONTENT = {"meta", "img", "br", "link"}


def rung(kind: str, text: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "loss": 0.3, "text": text}


def answer(text: str, recovery: float) -> dict[str, Any]:
    return {"frame": "§ means", "text": text, "recovery": recovery}


def ablation(index: int, way: str) -> dict[str, Any]:
    return {"index": index, "way": way, "delta": 0.4 - index, "low": 0.1 - index, "high": 0.7 - index}


TRUST = {
    "score": 21.6, "band": "do_not_read", "limiting": "retention", "retention": 0.3, "retention_low": 0.216,
    "above_null": 1.0, "stability": None, "echo": 0.5, "retention_of_change": None, "sentence": f"Careful: {HOSTILE}",
}
READINGS: dict[str, Any] = {
    "ladder": {"rungs": [rung("soft"), rung("nearest", HOSTILE), rung("random")], "rows": 100, "draws": 32, "seeds": 1,
               "retention": {"value": 0.3, "low": 0.216, "high": 0.4, "of_change": None, "headroom": 0.2,
                             "headroom_error": 0.02, "reason": ""}, "trust": TRUST},
    "tokens": {"ablations": [ablation(i, way) for i in range(2) for way in ("mask", "deletion", "mean")],
               "cumulative": [{"kept": k, "accuracy": 0.5 + k / 10, "loss": 1.0} for k in range(3)], "rows": 80,
               "order": {"accuracy": 0.7, "shuffled": [0.6, 0.5], "loss_of_accuracy": 0.15}},
    "attributions": {"attribution": [0.5, -0.1], "error": 0.2, "steps": 512, "is_complete": False},
    "attention": {"by_layer_and_head": [[0.2, 0.4]], "by_token": [0.1, 0.2], "mass": [[[0.1, 0.1], [0.2, 0.2]]]},
    "signature": {"raised": [{"id": 3, "token": HOSTILE, "score": 1.5}], "lowered": [], "expected": [],
                  "continued": HOSTILE},
    "says_of_itself": {"answers": [answer(HOSTILE, 0.1)], "controls": {"start": [answer("no", 0.3)]},
                       "best_control": 0.3, "says_something": False},
}
DOCUMENT: dict[str, Any] = {
    "tokens": [{"index": i, "norm": 1.0, "norm_percentile": 40.0, "z": 4.0, "echo": bool(i),
                "neighbours": [{"id": 7, "token": HOSTILE, "score": 0.5}]} for i in range(2)],
    "projection": {"explained_variance": [0.1, 0.05, 0.02],
                   "points": [{"index": i, "x": i, "y": -i, "z": 0.0, "share_in_plane": 0.1} for i in range(2)]},
    "trust": TRUST, "readings": READINGS,
}


class Seen(HTMLParser):
    """The tags, attributes and text of a page, and whether every tag is closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in WITHOUT_CONTENT:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_words_stand_verbatim_and_become_no_markup() -> None:
    seen = Seen(report(DOCUMENT, title=HOSTILE, line=HOSTILE, facts=[("data", HOSTILE)]))
    assert not seen.open
    assert seen.text.count(HOSTILE) >= 8
    assert not seen.tags & {"img", "script", "link", "iframe", "object"}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]


def test_the_page_asks_nothing_of_anybody() -> None:
    page = report(DOCUMENT, title="run")
    assert "http" not in page.replace(html.escape(HOSTILE), "").replace("http-equiv", "")
    seen = Seen(page)
    assert not {name for name, _ in seen.attributes} & {"src", "href", "xlink:href", "srcset", "action"}
    assert not re.search(r"url\(|@import", page)
    assert "default-src 'none'" in page


def test_what_was_measured_is_there_and_what_was_not_is_said() -> None:
    seen = Seen(report(DOCUMENT, title="run")).text
    assert "22 / 100" in seen
    assert "Do not read, limited by: kept by the words" in seen
    assert "No answer beats the controls" in seen
    assert "no ranking is drawn" in seen
    few = Seen(report({**DOCUMENT, "readings": {"ladder": READINGS["ladder"], "tokens": None}}, title="run")).text
    assert few.count("Not measured.") == 5
    refused = {"attention": {"reason": "This architecture gives no attention weights."}}
    assert "gives no attention weights" in Seen(report({**DOCUMENT, "readings": refused}, title="run")).text


def test_a_line_cannot_be_turned_round() -> None:
    assert "⟨U+202E⟩evil" in report(DOCUMENT, title="\u202eevil")


@pytest.mark.parametrize("name", [name for name, (reading, _) in TABLES.items() if reading in READINGS])
def test_every_row_of_a_table_fits_its_head(name: str) -> None:
    head, rows = table(name, READINGS[TABLES[name][0]])
    assert rows
    assert {len(row) for row in rows} == {len(head)}
