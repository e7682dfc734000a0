"""Questions and the kind of answer they ask for, found in the text and made from its sentences."""

import random
import re
from collections.abc import Iterable

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

# the noun after "what" or "which" decides the kind of the answer
HEADS = {
    "person": "man woman person actor actress author king queen president singer writer general poet player"
    " doctor boy girl lady gentleman officer teacher captain scientist painter composer inventor explorer"
    " emperor bishop",
    "place": "city country state town place street river island mountain continent county village lake sea"
    " road building house port region capital station ocean university",
    "time": "year day month date hour century decade season time",
    "number": "number percentage price cost population age amount distance height weight length speed"
    " temperature size",
    "thing": "animal book film movie song colour color food drink language sport game instrument ship"
    " company bird flower plant disease dog train car team newspaper word currency religion metal stone"
    " tree fish product play weapon dish letter machine band",
}
_MEASURES = "many much far old long tall high deep fast large big often heavy wide hot cold".split()
_HEAD_OF = {head: kind for kind, heads in HEADS.items() for head in heads.split()}
# {noun} has its article, {bare} has none; {place}, {thing} and so on are one of their HEADS
_FRAMES = {
    "place": (
        "Where is {name}?",
        "Where was {name} born?",
        "What is the capital of {name}?",
        "Where can I find {noun}?",
        "In what {place} is {name}?",
        "What {place} is the home of {name}?",
        "Where do they make the {bare}?",
    ),
    "time": (
        "When was {name} born?",
        "In what year did {name} die?",
        "When did {name} begin?",
        "What year was the {bare} invented?",
        "When is {name}?",
        "What day does {name} fall on?",
    ),
    "number": (
        "How many people live in {name}?",
        "What is the population of {name}?",
        "How old is {name}?",
        "How {measure} is {noun}?",
        "How much does {noun} cost?",
        "How many {bare}s are there in {name}?",
        "What is the average {number} of {noun}?",
        "How {measure} is {name}?",
        "How long does it take to make {noun}?",
    ),
    "person": (
        "Who is {name}?",
        "Who was {name}?",
        "Who invented the {bare}?",
        "Who wrote {name}?",
        "What is the name of the {person} of {name}?",
        "Who discovered {name}?",
    ),
    "definition": (
        "What is {noun}?",
        "What is the meaning of {bare}?",
        "What does {bare} mean?",
        "What are {bare}s?",
        "What is {bare}?",
        "Define {bare}.",
        "What is the difference between {bare} and {name}?",
    ),
    "manner": (
        "How does {noun} work?",
        "How do you make {noun}?",
        "How did {name} die?",
        "How can I get {noun}?",
        "How do I find {name}?",
    ),
    "reason": (
        "Why is the {bare} important?",
        "Why did {name} leave?",
        "Why do people like {name}?",
        "What causes {noun}?",
        "Why does {noun} move?",
    ),
    "thing": (
        "What {thing} is {name} known for?",
        "What is the name of the {thing} in {name}?",
        "What is {noun} made of?",
        "What kind of {thing} is {name}?",
        "What {thing} has the largest {bare}?",
        "What is the best {bare} in the world?",
    ),
}


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
        return "number" if second in _MEASURES else "manner"
    if first in ("what", "which"):
        for word in words[1:4]:
            if word in _HEAD_OF and (
                word == second or second in ("is", "was", "are", "the", "kind", "sort", "other")
            ):
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
    rows: list[Row] = []
    for kind in ("person", "place", "thing"):
        heads = HEADS[kind].split()
        for predicate in predicates:
            head = rng.choice(heads)
            forms = [
                f"What {head} {predicate}?",
                f"Which {head} {predicate}?",
                f"Name the {head} that {predicate}.",
            ]
            if kind == "person":
                forms += [f"Who {predicate}?", f"Who {predicate}?", f"Name the {head} who {predicate}."]
            rows.append((rng.choice(forms), kind))
    for _ in range(rounds):
        for name, noun in zip(
            rng.sample(names, min(3000, len(names))), rng.choices(nouns, k=3000), strict=False
        ):
            rows += _templates(name, noun, rng)
    for long_form, short in _ACRONYM.findall(text):
        forms = [
            f"What does {short} stand for?",
            f"What is {short}?" if rng.random() < 0.2 else f"What does the abbreviation {short} mean?",
            f"What is the abbreviation for {long_form.strip()}?",
            f"What is the full form of {short}?",
            f"What do the letters {short} stand for?",
        ]
        rows += [(form, "abbreviation") for form in forms]
    return list(dict.fromkeys(rows))


def _templates(name: str, noun: str, rng: random.Random) -> list[Row]:
    """Return one question of each kind about a name and a noun."""
    words = {
        "name": name,
        "noun": f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}",
        "bare": noun,
        "measure": rng.choice(_MEASURES[2:]),
    } | {kind: rng.choice(heads.split()) for kind, heads in HEADS.items()}
    return [(rng.choice(frames).format(**words), kind) for kind, frames in _FRAMES.items()]


def question_tasks(texts: list[str], wiki: list[str], rng: random.Random) -> list[Task]:
    """Return the tasks that ask what kind of answer a question wants."""
    fine = found_questions(texts) + made_questions(wiki, rng)
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
            share=3,
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
            share=2,
        ),
    ]
