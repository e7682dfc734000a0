"""Templates: column names in braces and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_core.errors import UserError
from softprompt_core.templates import parse_template

ROW = {"message": "Hi {name}", "subject": "A", "odd: name!": "B"}
COLUMNS = tuple(ROW)
PLAIN = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=20)


def rendered(template: str) -> str:
    return parse_template(template, columns=COLUMNS).render(ROW, text_column="message")[0]


def test_text_means_the_text_column_whatever_its_name():
    assert rendered("Text: {text}\nLabel:") == "Text: Hi {name}\nLabel:"


def test_any_column_may_be_named():
    assert rendered("{subject}: {message} {odd: name!}") == "A: Hi {name} B"


def test_doubled_braces_are_the_characters_themselves():
    assert rendered("{{x}} {text}") == "{x} Hi {name}"


def test_braces_inside_a_value_are_left_alone():
    assert rendered("{text}") == "Hi {name}"


@given(PLAIN, PLAIN, PLAIN)
def test_spans_point_at_exactly_the_columns_values(before, between, after):
    template = parse_template(f"{before}{{text}}{between}{{subject}}{after}", columns=COLUMNS)
    text, spans = template.render(ROW, text_column="message")
    assert text == f"{before}Hi {{name}}{between}A{after}"
    assert [(text[start:end], is_text) for start, end, is_text in spans] == [("Hi {name}", True), ("A", False)]


def test_rendering_leaves_the_row_as_it_was():
    row = dict(ROW)
    parse_template("{text}", columns=COLUMNS).render(row, text_column="message")
    assert row == ROW


@pytest.mark.parametrize("template", ["{", "}", "{text", "text}", "{text}}", "{{text}", "{te{x}t}"])
def test_unmatched_braces_are_refused(template):
    with pytest.raises(UserError, match=r"brace|column"):
        parse_template(template, columns=COLUMNS)


@pytest.mark.parametrize("field", ["nope", "", "0", "Text", " text", "label"])
def test_missing_column_is_refused_with_those_there_are(field):
    with pytest.raises(UserError, match=r"no column.*\{text\}, \{message\}, \{subject\}"):
        parse_template(f"{{text}} {{{field}}}", columns=COLUMNS)


@pytest.mark.parametrize("field", ["text.__class__", "text[0]", "text.__init__.__globals__[os]", "0[a]"])
def test_attribute_and_index_are_refused(field):
    with pytest.raises(UserError, match="attribute or index"):
        parse_template(f"{{{field}}}", columns=COLUMNS)


@pytest.mark.parametrize("field", ["text!r", "text:>10", "text!s:{subject}", "text:{width}", "nope!r"])
def test_conversion_and_format_are_refused(field):
    with pytest.raises(UserError, match="more than a column name"):
        parse_template(f"{{{field}}}", columns=COLUMNS)


@pytest.mark.parametrize("template", ["Label:", "{{text}}", " "])
def test_template_without_a_column_is_refused(template):
    with pytest.raises(UserError, match="names no column"):
        parse_template(template, columns=COLUMNS)
