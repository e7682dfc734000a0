"""Questions and the kind of answer they ask for, found in the text and made from its sentences."""

import random
import re
from collections.abc import Iterable

from question_words import ADJECTIVES, FRAMES, HEADS, MEASURES, SUPERLATIVES, VERB_ENDS, WHERE_IN
from task import Row, Task, namings

_QUESTION = re.compile(
    r"(?:^|[.!?\"'] |: )\"?((?:Who|Whom|Whose|Where|When|Why|How|What|Which)\b[^.!?\":;\n]{6,90}\?)", re.M
)
_PREDICATE = re.compile(
    r"^(?:[A-Z][a-z]+ ){0,2}(?:He|She|It|They|[A-Z][a-z]+) "
    r"((?:was|is|were|had|won|became|served|played|\w+ed) [^.,;\n\"]{12,70})[.,]",
    re.M,
)
_ACRONYM = re.compile(r"\b((?:[A-Z][a-z]+ ){2,5})\(([A-Z]{2,6})\)")
_NAME = re.compile(r"(?<=[a-z,] )((?:[A-Z][a-z]{2,} ){1,2}[A-Z][a-z]{2,})\b")
_NOUN = re.compile(r"\b(?:an?|the) ([a-z]{3,10})(?= (?:of|in|is|was|and|that|which|to|on|at)\b|[.,;])")

_HEAD_OF = {head: kind for kind, heads in HEADS.items() for head in heads.split()}
_HEAD_LISTS = {kind: heads.split() for kind, heads in HEADS.items()}


def question_kind(question: str) -> str | None:
    """Return the kind of answer that a question's first words ask for, None where they do not tell."""
    words = re.findall(r"[a-z']+", question.lower())
    first, second = words[0], words[1] if len(words) > 1 else ""
    if first in ("who", "whom", "whose", "who's"):
        return "person"
    if first in ("where", "where's"):
        return "place"
    if first == "when":
        return "time"
    if first == "why":
        return "reason"
    if first == "how":
        return "number" if second in MEASURES else "manner"
    if first in ("what", "which"):
        for word in words[1:4]:
            if word in _HEAD_OF and (word == second or second in ("is", "was", "are", "the", "kind", "sort", "other")):
                return _HEAD_OF[word]
        if words[1:3] in (["is", "a"], ["is", "an"], ["are", "the"], ["does", "it"]):
            return "definition"
    return None


def found_questions(texts: Iterable[str]) -> list[Row]:
    """Return (question, kind) for the questions in the texts whose kind the first words tell."""
    found = dict.fromkeys(question for text in texts for question in _QUESTION.findall(text))
    return [(question, kind) for question in found if (kind := question_kind(question))]


def made_questions(wiki: list[str], rng: random.Random, *, rounds: int = 4) -> list[Row]:
    """Return questions made from encyclopedia sentences: their predicates, names, nouns and acronyms."""
    text = "\n".join(wiki)
    predicates = list(dict.fromkeys(_PREDICATE.findall(text)))
    names = list(dict.fromkeys(_NAME.findall(text)))
    nouns = list(dict.fromkeys(_NOUN.findall(text)))
    acronyms = [(long.strip(), short) for long, short in _ACRONYM.findall(text)]
    rows = [row for predicate in predicates for row in _about_predicate(predicate, rng)]
    for _ in range(rounds * min(3000, len(names))):
        words = _draw_words(names, nouns, acronyms, rng)
        rows += [(rng.choice(frames).format(**words), kind) for kind, frames in FRAMES.items()]
        rows += [(_about_head(kind, words, rng), kind) for kind in ("person", "place", "thing")]
    return list(dict.fromkeys((_restyle(text, rng), kind) for text, kind in rows))


def _about_predicate(predicate: str, rng: random.Random) -> list[Row]:
    """Return a question for a person, a place and a thing that a sentence's predicate is true of."""
    rows = []
    for kind in ("person", "place", "thing"):
        head = rng.choice(_HEAD_LISTS[kind])
        forms = [f"What {head} {predicate}?", f"Which {head} {predicate}?", f"Name the {head} that {predicate}."]
        if kind == "person":
            forms += [f"Who {predicate}?", f"Who {predicate}?", f"Name the {head} who {predicate}."]
        rows.append((rng.choice(forms), kind))
    return rows


def _draw_words(
    names: list[str], nouns: list[str], acronyms: list[tuple[str, str]], rng: random.Random
) -> dict[str, str]:
    """Return the words that stand in the frames of `question_words`; some abbreviations are invented."""
    bare, other = rng.choices(nouns, k=2)
    name = rng.choice(names)
    if acronyms and rng.random() < 0.4:
        long, short = rng.choice(acronyms)
    else:
        parts = [word.capitalize() for word in rng.choices(nouns, k=rng.choice((2, 3, 3, 4)))]
        long, short = " ".join(parts), "".join(part[0] for part in parts)
    spelling = rng.random()
    short = short.lower() if spelling < 0.15 else ".".join(short) + "." if spelling < 0.3 else short
    words = {
        "name": name if rng.random() < 0.7 else name.split()[0],
        "name2": rng.choice(names),
        "noun": _with_article(bare),
        "noun2": _with_article(other),
        "bare": bare,
        "bare2": other,
        "long": long if rng.random() < 0.7 else long.lower(),
        "short": short,
        "letter": rng.choice("ABCDEFGHIKLMNOPRSTVW"),
        "measure": rng.choice(MEASURES[2:]),
        "adjective": rng.choice(ADJECTIVES),
    }
    return words | {kind: rng.choice(heads) for kind, heads in _HEAD_LISTS.items()}


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _about_head(kind: str, words: dict[str, str], rng: random.Random) -> str:
    """Return a question whose noun after what, which or name decides the kind, whatever else it says."""
    head, end, where = rng.choice(_HEAD_LISTS[kind]), rng.choice(VERB_ENDS).format(**words), rng.choice(WHERE_IN)
    adjective, best = rng.choice(ADJECTIVES), rng.choice(SUPERLATIVES)
    forms = (
        f"What {head} {end}?",
        f"Which {head} {end}?",
        f"What {adjective} {head} {end}?",
        f"Which {adjective} {head} {end}?",
        f"Which of the {adjective} {head}s {end}?",
        f"What is the {best} {head} {where}?",
        f"What was the {best} {head} {where}?",
        f"What's the {best} {adjective} {head}?",
        f"What {head} is the {best} {where}?",
        f"Which {head} is the {best} of {words['name']}?",
        f"What is the name of the {head} that {end}?",
        f"What's the name of the {adjective} {head} that {end}?",
        f"What is {words['name']}'s {best} {head}?",
        f"What is {words['name']}'s favourite {head}?",
        f"Name the {head} that {end}.",
        f"Name {_with_article(adjective)} {head}.",
        f"Name the {best} {head} {where}.",
        f"Can you name the {head} that {end}?",
        f"Tell me which {head} {end}.",
        f"I forgot which {head} {end}.",
        f"do you know what {head} {end}",
        f"What are the {best} {head}s {where}?",
        f"What {head} did {words['name']} choose?",
        f"Which {head} do people in {words['name']} like best?",
        f"What two {head}s {end}?",
        f"What is the {adjective} {head} called that {end}?",
    )
    return rng.choice(forms)


def _restyle(question: str, rng: random.Random) -> str:
    """Return the question, now and then in a hurry: lower case, no mark, a word of politeness before it."""
    draw = rng.random()
    if draw < 0.08:
        return question.lower()
    if draw < 0.16:
        return question[0].lower() + question[1:].rstrip("?.")
    if draw < 0.2:
        return rng.choice(("Please, ", "Quick question: ", "Hi, ", "So ", "And ")) + question[0].lower() + question[1:]
    return question


def question_tasks(texts: list[str], wiki: list[str], rng: random.Random) -> list[Task]:
    """Return the tasks that ask what kind of answer a question wants."""
    fine = found_questions(texts) * 3 + made_questions(wiki, rng)  # three: what people wrote is rarer than what is made
    coarse_of = {
        "time": "number",
        "reason": "description",
        "manner": "description",
        "definition": "description",
    }
    coarse = [(text, coarse_of.get(kind, kind)) for text, kind in fine]
    ask = (
        "What kind of answer does the question want?",
        "Classify the question.",
        "What does the question ask for?",
        "Name the type of the question.",
        "Which kind of thing is asked for?",
    )
    return [
        Task(
            "coarse question kind",
            coarse,
            ask,
            namings(
                "person place number description thing abbreviation",
                "person location number description entity abbreviation",
                "human place amount explanation object acronym",
            ),
            share=6,
        ),
        Task(
            "fine question kind",
            fine,
            ask,
            namings(
                "person place time number reason manner definition thing abbreviation",
                "who where when number why how meaning what abbreviation",
                "person location date amount cause method definition object acronym",
            ),
            share=2.5,
        ),
    ]
