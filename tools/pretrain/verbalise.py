"""Task documents: labelled tasks put into words, with and without instructions, at zero to eight shots.

python tools/pretrain/verbalise.py --text TEXT --out FOLDER [--keep-out test.csv ...]
"""

import argparse
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from corpus import PROFANE, Document, Split, read_documents, split_sources, write_documents
from keep_out import KeepOut, near_copies, normalise, read_keep_out
from kinds import labelled_tasks
from labelled import labelled_rows
from opinions import opinion_tasks
from questions import question_tasks
from rules import dialogue_tasks, novel_tasks, source_task
from situations import situation_tasks
from task import Task
from word_games import word_game

DOCUMENTS = 160_000
HELD_OUT_DOCUMENTS = 600
# text, then label: {x} and {y}
SHOTS = (
    *["Text: {x}\nLabel: {y}"] * 8,
    "{x}\nLabel: {y}",
    "{x}\nAnswer: {y}",
    "Sentence: {x}\nAnswer: {y}",
    "Message: {x}\nLabel: {y}",
    "Tweet text : {x} Label : {y}",
    "Input: {x}\nOutput: {y}",
    "Text: {x}\nAnswer: {y}",
    "Question: {x}\nType: {y}",
    "Review: {x}\nSentiment: {y}",
    "{x} => {y}",
    "{x} It is {y}",
    "Text: {x}\nClass: {y}",
)
# the instruction inside every shot
ASKED_SHOTS = (
    "Text: {x}\n{i} {y}",
    "{x}\n{i} {y}",
    "{x}\nQuestion: {i}\nAnswer: {y}",
    "{i}\nText: {x}\nLabel: {y}",
    "{i}\n{x}\nAnswer: {y}",
    "{i} {x}\nLabel: {y}",
)
_AFFIRMING = frozenset(("yes", "no", "true", "false"))
_ANSWER = re.compile("\x01(.*?)\x02")


def verbalised_split(splits: dict[str, Split], *, cache: Path, keep_out: KeepOut) -> dict[str, Split]:
    """Return {"verbalised": Split, "unseen": Split}: task documents made from the training parts of `splits`.

    "verbalised" holds out documents of the kinds trained on; "unseen" has held-out kinds only.
    Documents are read from `cache` where an earlier run wrote them. Sentences of `keep_out` do not appear.
    """
    files = {name: cache / f"{name}.jsonl" for name in ("train", "verbalised", "unseen")}
    if not all(path.exists() for path in files.values()):
        rng = random.Random(0)
        tasks = all_tasks(splits, rng, keep_out=keep_out)
        cache.mkdir(parents=True, exist_ok=True)
        seen = [task for task in tasks if not task.is_held_out]
        unseen = [task for task in tasks if task.is_held_out]
        write_documents(files["unseen"], list(write_tasks(unseen, rng, HELD_OUT_DOCUMENTS)))
        documents = list(write_tasks(seen, rng, DOCUMENTS + HELD_OUT_DOCUMENTS))
        write_documents(files["verbalised"], documents[:HELD_OUT_DOCUMENTS])
        write_documents(files["train"], documents[HELD_OUT_DOCUMENTS:])
    read = {name: list(read_documents(path)) for name, path in files.items()}
    return {"verbalised": Split(read["train"], read["verbalised"]), "unseen": Split([], read["unseen"])}


def all_tasks(splits: dict[str, Split], rng: random.Random, *, keep_out: KeepOut) -> list[Task]:
    """Return every task, without rows that are profane, kept out, or in the held-out part of the text.

    Of the rows written by rule, near copies of a kept-out sentence go as well.
    """
    texts = {source: [document.text for document in split.train] for source, split in splits.items()}
    held_out = {normalise(x) for rows in labelled_rows(splits["tasks"].held_out).values() for x, _ in rows}
    barred = keep_out.normalised | held_out
    written = [
        *question_tasks(texts["dialogues"] + texts["novels"], texts["wiki"], rng),
        *opinion_tasks(rng),
        *situation_tasks(rng),
    ]
    tasks = [
        *labelled_tasks(labelled_rows(splits["tasks"].train), rng),
        *(_without_near_copies(task, keep_out) for task in written),
        *novel_tasks(texts["novels"], rng),
        *dialogue_tasks(texts["dialogues"], rng),
        source_task({name: texts[name] for name in ("novels", "wiki", "dialogues")}, rng),
    ]
    kept = []
    for task in tasks:
        rows = [(x, y) for x, y in task.rows if len(x) < 300 and not PROFANE.search(x) and normalise(x) not in barred]
        kept.append(replace(task, rows=rows))
    return kept


def _without_near_copies(task: Task, keep_out: KeepOut) -> Task:
    """Return the task without rows that nearly copy a kept-out sentence."""
    if not keep_out.word_sets:
        return task
    is_near = near_copies([x for x, _ in task.rows], keep_out)
    return replace(task, rows=[row for row, near in zip(task.rows, is_near, strict=True) if not near])


def write_tasks(tasks: list[Task], rng: random.Random, documents: int) -> Iterator[Document]:
    """Yield documents: tasks by their shares, and one in ten a game with words."""
    deals = [_Deal(task, rng) for task in tasks]
    shares = [task.share for task in tasks]
    games = [x for task in tasks for x, _ in random.Random(0).sample(task.rows, min(500, len(task.rows)))]
    for _ in range(documents):
        if rng.random() < 0.1:
            marked = word_game(rng.choice(games), rng)
        else:
            marked = _write_document(rng.choices(deals, shares)[0], rng)
        yield unmark(marked)


class _Deal:
    """Rows of a task, dealt by class: mostly all classes equally often, sometimes as they come."""

    def __init__(self, task: Task, rng: random.Random) -> None:
        self.task, self.rng = task, rng
        self.by_class: dict[str, list[str]] = defaultdict(list)
        for text, key in task.rows:
            self.by_class[key].append(text)
        self.keys = sorted(self.by_class)

    def row(self, is_balanced: bool) -> tuple[str, str]:
        if is_balanced:
            key = self.rng.choice(self.keys)
            return self.rng.choice(self.by_class[key]), key
        return self.rng.choice(self.task.rows)


def _write_document(deal: _Deal, rng: random.Random) -> str:
    """Return a document of a task, answers between \\x01 and \\x02."""
    task = deal.task
    shots = rng.choice((1, 1, 2, 4, 6, 8))
    is_balanced = rng.random() < 0.8
    rows = [deal.row(is_balanced) for _ in range(shots)]
    words, is_renamed = _choose_words(task, rows, rng)
    is_naming = not _AFFIRMING.issuperset(label.lower() for label in words.values()) and rng.random() < 0.35
    used = {key for _, key in rows}
    instruction = _name_labels(words, used, rng) if is_naming else rng.choice(_fitting_instructions(task, words))
    is_asked = not is_naming and rng.random() < 0.25
    shot = rng.choice(ASKED_SHOTS if is_asked else SHOTS)
    style = _choose_style(rng)
    gap = rng.choice(("\n\n", "\n\n", "\n"))
    lines = [shot.format(i=instruction, x=style(x), y=f"\x01{words[key]}\x02") for x, key in rows]
    head = []
    # a renamed label is only guessable from a list or from other shots
    if is_naming or (not is_asked and rng.random() < 0.6):
        head.append(instruction)
    if not is_naming and (is_renamed or rng.random() < 0.3):
        head.append(_list_labels(words, used, rng))
    body = gap.join(lines)
    tail = ""
    if rng.random() < 0.05 and shots > 1:
        answers = ", ".join(dict.fromkeys(words[key] for _, key in rows))
        tail = gap + f"Which labels are used? \x01{answers}\x02"
    elif rng.random() < 0.05 and not is_asked:
        tail, head = gap + f"What is the question? \x01{instruction}\x02", []
    elif rng.random() < 0.05 and shots == 1:
        # the other way round: a text that deserves the label
        return f"{instruction}\nLabel: {words[rows[0][1]]}\nText: \x01{style(rows[0][0])}\x02"
    return "\n".join((*head, body)) + tail


def _choose_words(task: Task, rows: list[tuple[str, str]], rng: random.Random) -> tuple[dict[str, str], bool]:
    """Return the label of each class, and whether labels are swapped or stand for others in this document."""
    words = rng.choice(task.words)
    if len(words) > 8 or len(rows) < 4 or rng.random() > 0.15:
        return words, False
    keys = list(words)
    if rng.random() < 0.5:
        names = rng.sample(["A", "B", "C", "D", "E", "F", "G", "H"], len(keys))
    else:
        names = rng.sample(list(words.values()), len(keys))
    return dict(zip(keys, names, strict=True)), True


def _fitting_instructions(task: Task, words: dict[str, str]) -> Sequence[str]:
    """Return the instructions that the labels answer: yes and no answer only what can be affirmed."""
    if _AFFIRMING.issuperset(label.lower() for label in words.values()):
        return [i for i in task.instructions if i.startswith(("Is ", "Do ", "Does "))] or task.instructions
    return task.instructions


def _list_labels(words: dict[str, str], used: set[str], rng: random.Random) -> str:
    """Return a line that lists the labels, the ones in use among them, in random order."""
    line = rng.choice(("Labels: {}", "Options: {}", "Answer with one of: {}", "Choose from: {}"))
    return line.format(", ".join(_offered_labels(words, used, rng)))


def _name_labels(words: dict[str, str], used: set[str], rng: random.Random) -> str:
    """Return an instruction that names the labels, most often as the program's own default prompt does."""
    labels = _offered_labels(words, used, rng)
    if rng.random() < 0.5:
        labels.sort()
    named = ", ".join(labels[:-1]) + f" or {labels[-1]}" if len(labels) > 1 else labels[0]
    forms = ("Classify the message as {}:", "Is the text {}?", "Say whether it is {}.", "Decide: {}?")
    return (rng.choice(forms) if rng.random() < 0.4 else "Classify the text as {}:").format(named)


def _offered_labels(words: dict[str, str], used: set[str], rng: random.Random) -> list[str]:
    """Return the labels in use and up to seven others, each once, in random order."""
    spare = [key for key in sorted(words) if key not in used]
    keys = [*sorted(used), *rng.sample(spare, min(len(spare), 7))]
    labels = list(dict.fromkeys(words[key] for key in keys))
    rng.shuffle(labels)
    return labels


def _choose_style(rng: random.Random) -> Callable[[str], str]:
    """Return a way of writing texts: as they are, lower case, spaced marks, or like a short message."""
    draw = rng.random()
    if draw < 0.7:
        return lambda text: text
    if draw < 0.78:
        return str.lower
    if draw < 0.9:
        return lambda text: _space_marks(text.lower() if draw < 0.86 else text)
    return lambda text: (
        rng.choice(("@user ", "@user @user ", "", "")) + text + rng.choice(("", "", " #fb", " :)", " ..."))
    )


def _space_marks(text: str) -> str:
    """Return the text with marks and clitics set apart, as older corpora write it."""
    text = re.sub(r"([.,!?;:()\"])", r" \1 ", text)
    text = re.sub(r"(n't|'s|'re|'ve|'ll|'m|'d)\b", r" \1", text)
    return " ".join(text.split())


def unmark(marked: str) -> Document:
    """Return the document of a text in which answers stand between \\x01 and \\x02."""
    text, answers, last = "", [], 0
    for match in _ANSWER.finditer(marked):
        text += marked[last : match.start()]
        answers.append((len(text), len(text) + len(match.group(1))))
        text += match.group(1)
        last = match.end()
    return Document(text + marked[last:], tuple(answers))


def main() -> None:
    """Write the task documents of a text folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep-out", type=Path, nargs="*", default=[], help="CSV files whose sentences stay out")
    a = parser.parse_args()
    made = verbalised_split(split_sources(a.text), cache=a.out, keep_out=read_keep_out(a.keep_out))
    for name, split in made.items():
        print(f"{name}: {len(split.train)} documents to train on, {len(split.held_out)} held out")


if __name__ == "__main__":
    main()
