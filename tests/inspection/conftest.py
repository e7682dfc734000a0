"""Vocabularies for the inspector's tests: the bundled model's, and small ones made of chosen rows."""

import numpy as np
import pytest

from softprompt_core.inspection.vocabulary import Vocabulary, row_norms, vocabulary_of
from softprompt_core.models import load_model


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
