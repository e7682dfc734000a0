"""Text made visible: nothing hides, nothing is markup, and tokens of every family of tokenizer are
readable."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softprompt_core.models import load_tokenizer
from softprompt_core.visible import MAX_SHOWN, is_whole_word, spellings, token_style, token_text, visible


def metaspace_tokenizer():
    vocab = {"<unk>": 0, "<0x0A>": 1, "<0xE2>": 2, "▁the": 3, "ing": 4, "▁": 5, "a": 6, "▁a": 7}
    tokenizer = Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def wordpiece_tokenizer():
    vocab = {"[UNK]": 0, "a": 1, "##ing": 2, "the": 3, "!": 4}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "␣the"),
        ("  two words", "␣␣two words"),
        ("a\nb\r\nc", "a⏎b⏎c"),
        ("\t", "⇥"),
        ("\x00", "⟨U+0000⟩"),
        ("\u202egnp.exe", "⟨U+202E⟩gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("no\u00a0break", "no⟨U+00A0⟩break"),
        ("\u3164", "⟨U+3164⟩"),
        ("\u0301", "◌\u0301"),
        ("\ud800", "⟨U+D800⟩"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("", ""),
    ],
)
def test_every_character_is_seen(text, shown):
    assert visible(text) == shown


def test_long_text_is_cut_with_an_ellipsis():
    assert visible("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert visible("x" * 1_000) == "x" * (MAX_SHOWN - 1) + "…"
    assert visible("\x00" * 1_000).endswith("⟩…")


@given(st.text())
def test_shown_text_is_short_and_hides_nothing(text):
    shown = visible(text)
    assert len(shown) <= MAX_SHOWN
    assert not any(unicodedata.category(c)[0] == "C" or c in "\n\t\u2028\u2029" for c in shown)


def test_byte_level_tokens_are_spelled():
    tokenizer = load_tokenizer("bundled")
    the = tokenizer.convert_tokens_to_ids("Ġthe")
    assert token_style(tokenizer) == "byte_level"
    assert token_text(tokenizer, the) == "␣the"
    assert token_text(tokenizer, tokenizer.convert_tokens_to_ids("Ċ")) == "⏎"
    assert token_text(tokenizer, tokenizer.convert_tokens_to_ids("âĢ")) == "<0xE2><0x80>"
    assert token_text(tokenizer, 0) == "<|endoftext|>"


def test_byte_level_text_equals_the_tokenizers_own():
    tokenizer = load_tokenizer("bundled")
    for id, spelling in enumerate(spellings(tokenizer, range(len(tokenizer)))):
        own = tokenizer.decode([id], clean_up_tokenization_spaces=False)
        assert spelling.text == (None if "�" in own else own)


def test_metaspace_tokens_are_spelled():
    tokenizer = metaspace_tokenizer()
    shown = [token_text(tokenizer, id) for id in range(len(tokenizer))]
    assert token_style(tokenizer) == "metaspace"
    assert shown == ["<unk>", "<0x0A>", "<0xE2>", "␣the", "ing", "␣", "a", "␣a"]
    assert [s.text for s in spellings(tokenizer, [1, 2, 3])] == ["\n", None, " the"]


def test_wordpiece_tokens_are_spelled():
    tokenizer = wordpiece_tokenizer()
    assert token_style(tokenizer) == "wordpiece"
    assert [token_text(tokenizer, id) for id in (1, 2, 3)] == ["a", "##ing", "the"]


def test_unknown_ids_are_named():
    assert token_text(load_tokenizer("bundled"), 50_000) == "⟨id 50000⟩"
    assert token_text(load_tokenizer("bundled"), -1) == "⟨id -1⟩"


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        (" word", "byte_level", True),
        (" don't", "metaspace", True),
        (" well-known", "byte_level", True),
        (" हिन्दी", "metaspace", True),
        (" Łódź", "byte_level", True),
        ("word", "byte_level", False),
        (" 12", "byte_level", False),
        (" ", "byte_level", False),
        (" '", "byte_level", False),
        (" two words", "byte_level", False),
        ("word", "wordpiece", True),
        ("##ing", "wordpiece", False),
    ],
)
def test_whole_words_are_told_apart(text, style, expected):
    assert is_whole_word(text, style) is expected
