"""Labelled utterances, read back from the documents of tasks.jsonl."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from corpus import Document

INSTRUCTIONS = {
    "What does the bank customer want?": "bank",
    "Classify the bank request:": "bank",
    "What does the user want?": "request",
    "Classify the request:": "request",
    "Which service does the user need?": "topic",
    "Name the topic of the message.": "topic",
    "Classify the topic:": "topic",
    "Who says this?": "speaker",
    "Is this the user or the assistant?": "speaker",
    "Classify the speaker:": "speaker",
    "What emotion is in the text?": "emotion",
    "How does the writer feel?": "emotion",
    "Name the emotion.": "emotion",
    "Classify the emotion:": "emotion",
    "Is the text positive or negative?": "tone",
    "What is the tone of the text?": "tone",
    "Classify the tone:": "tone",
    # shared by bank, request and topic: their labels tell which it is
    "Name the intent of the message.": None,
    "What is this message about?": None,
}
_ANY = "(?:" + "|".join(re.escape(i) for i in INSTRUCTIONS) + ")"
# the forms that prepare.py writes, the most specific first
_FORMS = [
    re.compile(pattern)
    for pattern in (
        rf"(?P<i>{_ANY})\nText: (?P<x>.+)\nLabel: (?P<y>.+)",
        rf"(?P<i>{_ANY})\n(?P<x>.+)\nAnswer: (?P<y>.+)",
        rf"(?P<i>{_ANY}) (?P<x>.+)\nLabel: (?P<y>.+)",
        rf"Text: (?P<x>.+)\n(?P<i>{_ANY}) (?P<y>.+)",
        r"Text : (?P<x>.+) Label : (?P<y>.+)",
        rf"(?P<x>.+)\n(?P<i>{_ANY}) (?P<y>.+)",
        r"(?P<x>.+)\nLabel: (?P<y>.+)",
    )
]


def labelled_rows(documents: Iterable[Document]) -> dict[str, list[tuple[str, str]]]:
    """Return {kind: [(text, label)]} for the kinds bank, request, topic, speaker and emotion, each row once.

    Documents without an instruction belong to the kind whose documents with one use their labels most.
    """
    parsed = [rows for rows in (_parse(document.text) for document in documents) if rows]
    uses: dict[str, Counter[str]] = defaultdict(Counter)
    for rows in parsed:
        for instruction, _, label in rows:
            if kind := INSTRUCTIONS.get(instruction or ""):
                uses[label][kind] += 1
    found: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for rows in parsed:
        votes: Counter[str] = Counter()
        for instruction, _, label in rows:
            known = INSTRUCTIONS.get(instruction or "")
            votes.update({known: 1_000_000} if known else uses[label])
        if votes:
            kind = votes.most_common(1)[0][0]
            found[kind] |= dict.fromkeys((text, label) for _, text, label in rows)
    found.pop("tone", None)  # the same utterances as `emotion`, with labels that follow from it
    return {kind: list(rows) for kind, rows in found.items()}


def _parse(text: str) -> list[tuple[str | None, str, str]]:
    """Return (instruction or None, text, label) of each shot, [] for documents of other kinds."""
    rows = []
    for shot in text.split("\n\n"):
        match = next((m for form in _FORMS if (m := form.fullmatch(shot))), None)
        if match is None:
            return []
        parts = match.groupdict()
        # some utterances carry the quoting of the table they came from
        rows.append((parts.get("i"), parts["x"].strip('"').replace('""', '"').strip(), parts["y"]))
    return rows
