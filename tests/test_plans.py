from __future__ import annotations

import pytest

from softprompt_core.plans import Row, plan

TWO = [Row([7, 8], ([9, 10, 0], [11, 0])), Row([5], ([6, 0],))]


def test_long_batches_are_packed_into_several_lines():
    batch = [Row([3] * 100, ([4, 0],)) for _ in range(12)]
    lines = plan([batch], prompt_length=5, layout="packed")
    assert len(lines.prompt_of) == 3
    assert lines.ids.shape[1] <= 512


def test_positions_are_contiguous_after_the_prompt():
    lines = plan([TWO], prompt_length=3, layout="packed")
    assert lines.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 3, 4]
    assert lines.ids[0].tolist() == [0, 0, 0, 7, 8, 9, 10, 11, 5, 6]


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
