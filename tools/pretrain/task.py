"""A labelled task before it is put into words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Row = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """Texts with class keys, and the many ways to ask for the class and to name it.

    `words` holds alternative namings: each maps every class key to the label a document uses.
    `share` is the task's weight among all tasks; `is_held_out` keeps the whole task out of training.
    """

    name: str
    rows: Sequence[Row]
    instructions: Sequence[str]
    words: Sequence[dict[str, str]]
    share: float = 1.0
    is_held_out: bool = False


def namings(keys: str, *alternatives: str) -> list[dict[str, str]]:
    """Return namings from aligned lists: `namings("a b", "good bad", "very good/very bad")`.

    A slash in place of spaces allows labels of several words.
    """
    names = keys.split()
    result = [dict(zip(names, names, strict=True))]
    for alternative in alternatives:
        labels = alternative.split("/") if "/" in alternative else alternative.split()
        result.append(dict(zip(names, labels, strict=True)))
    return result


def own_names(rows: Iterable[Row]) -> list[dict[str, str]]:
    """Return the one naming in which every class is called by its key."""
    return [{key: key for _, key in rows}]


def relabel(rows: Iterable[Row], groups: dict[str, str]) -> list[Row]:
    """Return the rows whose label stands in a group, under the group's key.

    `groups` maps a key to labels between spaces; spaces inside a label are written as underscores.
    """
    key_of = {label.replace("_", " "): key for key, labels in groups.items() for label in labels.split()}
    return [(text, key_of[label]) for text, label in rows if label in key_of]
