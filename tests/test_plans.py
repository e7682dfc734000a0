from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_core.plans import Row, divided, plan

TWO = [Row([7, 8], ([9, 10, 0], [11, 0])), Row([5], ([6, 0],))]


def test_long_batches_are_packed_into_several_lines():
    batch = [Row([3 + i] * 100, ([4, 0],)) for i in range(12)]
    lines = plan([batch], prompt_length=5, layout="packed")
    assert len(lines.prompt_of) == 3
    assert lines.ids.shape[1] <= 512


def test_positions_are_contiguous_after_the_prompt():
    lines = plan([TWO], prompt_length=3, layout="packed")
    assert lines.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 3, 4]
    assert lines.ids[0].tolist() == [0, 0, 0, 7, 8, 9, 10, 11, 5, 6]


def test_what_all_texts_of_a_prompt_begin_with_is_laid_out_once():
    rows = [Row([7, 8, 9], ([4, 0],)), Row([7, 8], ([5, 0],)), Row([7, 8, 6], ([3],))]
    lines = plan([rows], prompt_length=2, layout="packed")
    assert lines.ids[0].tolist() == [0, 0, 7, 8, 9, 4, 8, 5, 8, 6]
    assert lines.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 3, 4]
    assert lines.text[0].tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("layout", ["concatenated", "cached"])
def test_every_continuation_has_a_line_of_its_own_padded_on_the_right(layout):
    lines = plan([TWO], prompt_length=3, layout=layout)
    assert lines.ids[:, 3:].tolist() == [[7, 8, 9, 10], [7, 8, 11, 0], [5, 6, 0, 0]]
    assert lines.text[:, 3:].tolist() == [[0, 0, 0, 0], [0, 0, 0, -2], [0, 0, -2, -2]]
    assert lines.keep[:, 3:].astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]


def test_pefts_lines_are_padded_between_prompt_and_text_and_count_their_places():
    lines = plan([TWO], prompt_length=2, layout="peft", padded_to=6)
    assert lines.ids[:, 2:].tolist() == [[0, 7, 8, 9, 10], [0, 0, 7, 8, 11], [0, 0, 0, 5, 6]]
    assert (lines.text == -2).sum(1).tolist() == [1, 2, 3]
    assert lines.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6]] * 3


def test_pefts_lines_are_as_wide_as_the_longest_row_at_least():
    assert plan([TWO], prompt_length=2, layout="peft", padded_to=3).ids.shape == (3, 2 + 5 - 1)


@pytest.mark.parametrize(
    ("layout", "tokens"), [("packed", 3 + 7), ("cached", 3 + 9), ("concatenated", 9 + 9), ("peft", 9 + 12)]
)
def test_tokens_are_those_that_are_computed(layout, tokens):
    assert plan([TWO], prompt_length=3, layout=layout).tokens == tokens


# ------------------------------------------------------------ steps in parts

ROWS = st.lists(
    st.builds(lambda text, label: Row([1] * text, ([2] * label,)), st.integers(1, 300), st.integers(1, 5)),
    min_size=1, max_size=40,
)
LAYOUTS = st.sampled_from(["packed", "cached", "concatenated", "peft", "encoder_decoder"])


@given(ROWS, LAYOUTS, st.integers(0, 200), st.integers(1, 5_000), st.integers(1, 60))
def test_every_row_is_in_one_part_in_order_and_no_part_is_too_large(rows, layout, length, tokens, predictions):
    parts = divided(
        rows, prompt_length=length, layout=layout, tokens=tokens, predictions=predictions, padded_to=120
    )
    assert [row for part in parts for row in part] == rows
    assert all(parts)
    for part in parts:
        lines = plan([part], prompt_length=length, layout=layout, padded_to=120)
        fed = lines.tokens if layout == "packed" else lines.ids.size
        assert len(part) == 1 or (fed <= tokens and len(lines.target) <= predictions)


@given(ROWS, LAYOUTS)
def test_what_fits_stays_whole(rows, layout):
    assert divided(rows, prompt_length=20, layout=layout, tokens=10**6, predictions=10**6) == [rows]


@pytest.mark.parametrize(("layout", "parts"), [("packed", 4), ("concatenated", 8)])
def test_a_batch_of_four_thousand_rows_goes_in_a_few_parts(layout, parts):
    rows = [Row([1] * 12, ([2, 3],))] * 4_096
    found = divided(rows, prompt_length=16, layout=layout, tokens=16_384, predictions=10**6)
    assert len(found) == parts
