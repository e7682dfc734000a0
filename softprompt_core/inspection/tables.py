"""The readings of a run as tables: a head and plain rows, for CSV files and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Table = tuple[list[str], list[list[Any]]]
"""(names of the columns, rows of plain values)."""
Document = Mapping[str, Any]


def _ladder(found: Document) -> Table:
    keys = ["kind", "accuracy", "accuracy_low", "accuracy_high", "loss", "text"]
    return ["in_place_of_the_prompt", *keys[1:]], [[rung[key] for key in keys] for rung in found["rungs"]]


def _tokens(found: Document) -> Table:
    rows = [[a["index"] + 1, a["way"], a["delta"], a["low"], a["high"]] for a in found["ablations"]]
    return ["virtual_token", "left_out_by", "delta_loss", "low", "high"], rows


def _cumulative(found: Document) -> Table:
    return ["tokens_kept", "accuracy", "loss"], [[c["kept"], c["accuracy"], c["loss"]] for c in found["cumulative"]]


def _order(found: Document) -> Table:
    rows = [["as trained", found["order"]["accuracy"]]]
    return ["order", "accuracy"], rows + [[f"shuffle {n + 1}", a] for n, a in enumerate(found["order"]["shuffled"])]


def _attributions(found: Document) -> Table:
    rows = [[n + 1, value, found["error"], found["is_complete"]] for n, value in enumerate(found["attribution"])]
    return ["virtual_token", "attribution", "completeness_error", "is_complete"], rows


def _attention(found: Document) -> Table:
    rows = [
        [layer + 1, head + 1, token + 1, share]
        for layer, heads in enumerate(found["mass"]) for head, shares in enumerate(heads)
        for token, share in enumerate(shares)
    ]
    return ["layer", "head", "virtual_token", "share_of_attention"], rows


def _signature(found: Document) -> Table:
    return ["word", "change_of_log_p"], [[w["token"], w["score"]] for w in (*found["raised"], *found["lowered"])]


def _answers(found: Document) -> Table:
    sweeps = {"this prompt": found["answers"], **found["controls"]}
    rows = [[of, a["frame"], a["text"], a["recovery"]] for of, answers in sweeps.items() for a in answers]
    return ["of", "frame", "answer", "recovery"], rows


def _pair(found: Document) -> Table:
    rows = [
        [m["first"] + 1, m["first_word"], m["second"] + 1, m["second_word"], m["cosine"]] for m in found["matches"]
    ]
    return ["virtual_token", "word", "other_virtual_token", "other_word", "cosine"], rows


def _line(found: Document) -> Table:
    return ["share_of_the_second", "accuracy", "loss"], [
        [p["share"], p["accuracy"], p["loss"]] for p in found["line"] or ()
    ]


TABLES: dict[str, tuple[str, Callable[[Document], Table]]] = {
    "ladder": ("ladder", _ladder), "tokens": ("tokens", _tokens), "cumulative": ("tokens", _cumulative),
    "order": ("tokens", _order), "attributions": ("attributions", _attributions),
    "attention": ("attention", _attention),
    "signature": ("signature", _signature), "says_of_itself": ("says_of_itself", _answers), "pair": ("pair", _pair),
    "line": ("pair", _line), "twin": ("twin", _ladder),
}
"""By the table's name: (the reading that holds it, what makes the table of the reading)."""


def table(name: str, reading: Document) -> Table:
    """Head and rows of one table of a reading's document; empty for one that could not be made."""
    return ([], []) if "reason" in reading else TABLES[name][1](reading)
