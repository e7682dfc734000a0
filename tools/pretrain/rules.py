"""Tasks whose labels follow by rule from novels, dialogues and the encyclopedia."""

import random
import re
from collections.abc import Sequence

from task import Row, Task, namings

_SENTENCE = re.compile(r"(?<=[.!?])[\"']? +(?=[\"'A-Z])")
_WORD = re.compile(r"[a-z']+")
_SAID = re.compile(
    r"[\"']([^\"\n]{12,160})[,.!?][\"'] "
    r"(?:said|cried|asked|exclaimed|replied|answered|returned|he|she|[A-Z][a-z]+)"
    r"(?: (?:[A-Z][a-z]+|he|she|said|cried|asked|replied|answered|exclaimed)){0,2},? (\w+ly)\b"
)
_SPOKEN = re.compile(r"[\"']([^\"\n]{8,160}[,.!?])[\"'] (?:\w+ )?(\w+ed)\b")

# words that betray a feeling, fairly safely
FEELINGS = {
    "anger": "anger angry furious rage wrath indignant indignation fury hate hated hatred scorn contempt"
    " resentment enraged fiercely angrily insult insulted outrage vexed annoyed irritated provoked cursed",
    "joy": "joy happy happiness glad delight delighted laughed laughing merry gaily cheerful smiling smiled"
    " pleasure delightful joyful radiant laughter rejoiced cheerfully merrily",
    "fear": "afraid terror frightened terrified horror dread alarm alarmed trembling trembled fright scared"
    " panic nervous shuddered fearful anxiety dreaded",
    "sadness": "sad sadness sorrow grief tears wept weeping sobbed mourn mourning melancholy misery"
    " miserable lonely sobbing despair unhappy sigh sighed gloomy wretched desolate mournful sadly bereaved",
}
MANNERS = {
    "anger": "angrily furiously indignantly sharply fiercely sternly savagely irritably crossly hotly"
    " bitterly contemptuously impatiently scornfully testily sullenly sulkily",
    "joy": "gaily cheerfully merrily joyfully brightly cheerily happily gladly eagerly enthusiastically"
    " laughingly warmly delightedly jovially genially triumphantly",
    "fear": "nervously anxiously timidly fearfully tremulously uneasily breathlessly wildly",
    "sadness": "sadly mournfully gloomily wearily sorrowfully wistfully drearily plaintively dejectedly"
    " piteously despondently miserably brokenly regretfully",
}
_FEELING_OF = {word: feeling for feeling, words in FEELINGS.items() for word in words.split()}
_MANNER_OF = {word: feeling for feeling, words in MANNERS.items() for word in words.split()}
ASK_FEELING = (
    "What feeling is in the text?",
    "What emotion is in the text?",
    "Name the emotion.",
    "Which feeling does the passage show?",
)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a passage that are between 25 and 200 characters long."""
    return [s for line in text.split("\n") for s in _SENTENCE.split(line) if 25 <= len(s) <= 200]


def sentence_feeling(sentence: str) -> str | None:
    """Return the one feeling that the words of a sentence betray, None if they betray none or several."""
    found = [_FEELING_OF[word] for word in _WORD.findall(sentence.lower()) if word in _FEELING_OF]
    return found[0] if len(set(found)) == 1 else None


def sentence_form(sentence: str) -> str:
    """Return question, exclamation or statement, by the last mark."""
    mark = sentence.rstrip("\"'")[-1]
    return {"?": "question", "!": "exclamation"}.get(mark, "statement")


def novel_tasks(novels: Sequence[str], rng: random.Random) -> list[Task]:
    """Return the tasks on sentences of novels: feelings, manner of speech, form, order, people."""
    sentences = [split_sentences(text) for text in novels]
    flat = [s for group in sentences for s in group]
    feelings = [(s, feeling) for s in flat if (feeling := sentence_feeling(s))]
    manners = [(f'"{said}"', _MANNER_OF[how]) for t in novels for said, how in _SAID.findall(t) if how in _MANNER_OF]
    spoken = [(f'"{said}"', verb) for t in novels for said, verb in _SPOKEN.findall(t) if verb in _SPOKEN_VERBS]
    sample = rng.sample(flat, min(40_000, len(flat)))
    four = namings("anger joy fear sadness", "angry happy afraid sad", "rage delight terror grief")
    people = [(s, who) for s in sample if (who := _who(s))]
    tense = [(s, when) for s in sample if (when := _tense(s))]
    return [
        Task("feeling of a sentence", feelings, ASK_FEELING, four, share=2),
        Task(
            "manner of speech",
            manners,
            ("How is this said?", "How does the speaker feel?", *ASK_FEELING),
            four,
        ),
        Task(
            "speech verb",
            spoken,
            ("How is it said?", "Which verb fits?"),
            namings(" ".join(sorted(_SPOKEN_VERBS))),
            share=0.5,
        ),
        Task(
            "form",
            [(s, sentence_form(s)) for s in sample],
            ("Is it a question, an exclamation or a statement?", "What form has the sentence?"),
            namings("question exclamation statement", "asks exclaims states"),
            share=0.5,
        ),
        Task(
            "neighbours",
            _pairs(sentences, rng),
            ("Do the sentences belong together?",),
            namings("yes no"),
            share=0.7,
        ),
        Task(
            "tense",
            tense,
            ("Is it past, present or future?", "Which tense?"),
            namings("past present future"),
            0.4,
        ),
        # held out: no other task looks at he and she
        Task(
            "man or woman",
            people,
            ("Is it about a man or a woman?",),
            namings("man woman", "he she"),
            is_held_out=True,
        ),
    ]


_SPOKEN_VERBS = frozenset("whispered shouted sighed laughed groaned murmured growled asked exclaimed sobbed".split())


def _who(sentence: str) -> str | None:
    words = set(_WORD.findall(sentence.lower()))
    man, woman = bool(words & {"he", "his", "him"}), bool(words & {"she", "her", "hers"})
    return None if man == woman else "man" if man else "woman"


def _tense(sentence: str) -> str | None:
    words = set(_WORD.findall(sentence.lower()))
    found = [
        name
        for name, marks in (
            ("past", {"was", "were", "had", "did"}),
            ("present", {"is", "are", "has", "does"}),
            ("future", {"will", "shall", "i'll", "you'll", "we'll"}),
        )
        if words & marks
    ]
    return found[0] if len(found) == 1 else None


def _pairs(sentences: Sequence[Sequence[str]], rng: random.Random, *, pairs: int = 10_000) -> list[Row]:
    """Return pairs of sentences: the second follows the first in the text, or comes from elsewhere."""
    groups = [group for group in sentences if len(group) > 2]
    made = []
    for _ in range(pairs):
        group = rng.choice(groups)
        first = rng.randrange(len(group) - 1)
        is_next = rng.random() < 0.5
        second = group[first + 1] if is_next else rng.choice(rng.choice(groups))
        made.append((f"{group[first]} / {second}", "yes" if is_next else "no"))
    return made


def dialogue_tasks(dialogues: Sequence[str], rng: random.Random) -> list[Task]:
    """Return the tasks on turns of dialogues: what a turn does, and whether a reply fits."""
    turns = [[line.partition(": ")[2] for line in text.split("\n") if ": " in line] for text in dialogues]
    turns = [group for group in turns if len(group) > 3]
    acts = dict.fromkeys((turn, act) for group in turns for turn in group if (act := _act(turn)))
    replies = []
    for group in turns:
        first = rng.randrange(len(group) - 1)
        fits = rng.random() < 0.5
        reply = group[first + 1] if fits else rng.choice(rng.choice(turns))
        replies.append((f"{group[first]} / {reply}", "yes" if fits else "no"))
    return [
        Task(
            "dialogue act",
            list(acts),
            ("What does the speaker do?", "Classify the turn.", "What kind of message is it?"),
            namings("thanks goodbye yes no question request", "thanking/leaving/agreeing/refusing/asking/ordering"),
            share=1,
        ),
        Task(
            "reply fits",
            replies,
            ("Does the reply fit?", "Is this a sensible answer?"),
            namings("yes no"),
            0.7,
        ),
    ]


def _act(turn: str) -> str | None:
    """Return what a turn does, by its first words and last mark; None where they do not tell."""
    low = turn.lower()
    if len(turn) > 140:
        return None
    for act, pattern in _ACTS.items():
        if re.match(pattern, low):
            return act
    return "question" if low.endswith("?") else None


_ACTS = {
    "thanks": r"(no,? )?(thanks|thank you|many thanks|great,? thanks|okay,? thank)",
    "goodbye": r"(goodbye|bye|have a (great|good|nice)|see you|enjoy your)",
    "no": r"(no\b|nope|not really|i don't)[^?]*$",
    "yes": r"(yes|yeah|yep|sure|sounds good|that works|correct|that's right)[^?]*$",
    "request": r"(i (want|need|would like)|i'd like|i'm looking|can you find|(find|show|get) me|please|book)",
}


def source_task(texts: dict[str, Sequence[str]], rng: random.Random, *, each: int = 6_000) -> Task:
    """Return the task of telling where a sentence comes from."""
    rows = []
    for source, passages in texts.items():
        sentences = [
            s for text in rng.sample(list(passages), min(each, len(passages))) for s in split_sentences(text)[:3]
        ]
        rows += [(s.removeprefix("User: ").removeprefix("Assistant: "), source) for s in sentences]
    return Task(
        "source",
        rows,
        ("Where is this text from?", "What kind of text is it?"),
        namings("novels wiki dialogues", "novel encyclopedia conversation", "story article talk"),
        share=0.7,
    )
