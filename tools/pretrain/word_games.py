"""Small games with the words of a text: copying, first and last words, blanks, order."""

import random
import re


def word_game(text: str, rng: random.Random) -> str:
    """Return a game on a text, its answer between \\x01 and \\x02."""
    words = re.findall(r"[A-Za-z']+", text) or ["word"]
    few = " ".join(rng.sample(words, min(len(words), rng.randint(1, 5))))
    place = rng.randrange(len(words))
    other = rng.choice(words)
    games = [
        ("Repeat the text.", text, text),
        ("Repeat: ", few, few),
        ("Say it again:", few, few),
        ("Copy the words.", few, few),
        ("What is the first word?", text, words[0]),
        ("What is the last word?", text, words[-1]),
        (
            "Which word comes after " + words[place - 1 if place else 0] + "?",
            text,
            words[place if place else min(1, len(words) - 1)],
        ),
        ("How many words are there?", few, ["no", "one", "two", "three", "four", "five"][len(few.split())]),
        ("Write the words in reverse.", few, " ".join(reversed(few.split()))),
        ("Write in capitals.", few, few.upper()),
        ("Write in small letters.", few.upper(), few.lower()),
        (f"Is the word {other} in the text?", few, "yes" if other in few.split() else "no"),
        ("Fill in the blank.", text.replace(words[place], "___", 1), words[place]),
        ("Which word is missing?", text.replace(words[place], "...", 1), words[place]),
        ("What is the first letter?", few, few[0]),
        ("Which word is the longest?", few, max(few.split(), key=len)),
    ]
    instruction, given, answer = rng.choice(games)
    form = rng.choice(("{i}\nText: {x}\nAnswer: {y}", "{i} {x}\nAnswer: {y}", "Text: {x}\n{i} {y}", "{x}\n{i}\n{y}"))
    return form.format(i=instruction.strip(), x=given, y=f"\x01{answer}\x02")
