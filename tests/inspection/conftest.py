"""Vocabularies for the inspector's tests: the bundled model's, and small ones made of chosen rows."""

from dataclasses import dataclass

import numpy as np
import pytest

from softprompt_core.config import parse_config
from softprompt_core.data import load_task
from softprompt_core.inspection.effect import Effect
from softprompt_core.inspection.vocabulary import Vocabulary, row_norms, vocabulary_of
from softprompt_core.models import load_model
from softprompt_core.records import Snapshot
from softprompt_core.tokenising import tokenise
from softprompt_core.training import train


@pytest.fixture(scope="session")
def vocabulary():
    return vocabulary_of(load_model("bundled"))


@pytest.fixture
def make_vocabulary():
    def make(table, *, is_listed=None, is_whole_word=None):
        table = np.asarray(table, dtype=np.float32)
        everything = np.ones(len(table), dtype=bool)
        return Vocabulary(
            table,
            row_norms(table),
            [f"w{i}" for i in range(len(table))],
            everything if is_listed is None else is_listed,
            everything if is_whole_word is None else is_whole_word,
            {},
        )

    return make


@pytest.fixture
def ten_words(vocabulary):
    """Ids of ten ordinary words of the bundled model."""
    words = ["good", "bad", "time", "people", "service", "never", "money", "happy", "house", "water"]
    return [vocabulary.texts.index("␣" + word) for word in words]


@dataclass(frozen=True)
class Studied:
    """A prompt of 8 virtual tokens trained for 120 steps on complaints, its start, and what measures it."""

    effect: Effect
    prompt: np.ndarray
    start: np.ndarray


@pytest.fixture(scope="session")
def studied():
    config = parse_config({"virtual_tokens": 8, "steps": 120, "eval_every": 40})
    snapshots = [record for record in train({"run": config}) if isinstance(record, Snapshot)]
    base = load_model("bundled")
    tokens = tokenise(load_task(config), base.tokenizer, config, context=base.context)
    prompt = next(s.prompt for s in snapshots if s.kind == "selected")
    return Studied(Effect(base, tokens, rows=100), prompt, snapshots[0].prompt)
