from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from softprompt_core.config import TrainConfig
from softprompt_core.data import load_task
from softprompt_core.layouts import continuation_scores
from softprompt_core.models import load_model
from softprompt_core.outcomes import Outcomes, draw_shots, shot_ids
from softprompt_core.plans import Row, plan
from softprompt_core.tokenising import Example, tokenise


def test_hand_written_prompt_stands_after_the_start_token_of_a_model_that_has_one():
    base, config = load_model("bundled"), TrainConfig()
    tokens = tokenise(load_task(config), base.tokenizer, config, context=base.context)
    rows = tokens.splits["test"][:3]
    begun = replace(tokens, splits={**tokens.splits, "test": [Example((7, *e.context), e.label) for e in rows]})
    tokenizer = SimpleNamespace(bos_token_id=7, encode=base.tokenizer.encode)
    outcomes = Outcomes(replace(base, tokenizer=tokenizer), begun, "concatenated")
    found = outcomes.baselines("Is it good?", should_stop=lambda: False)["hand_written"]["loss"]
    words = base.tokenizer.encode("Is it good?\n", add_special_tokens=False)
    whole = [Row((7, *words, *e.context), (tokens.label_ids[e.label],)) for e in rows]
    none = base.module.get_input_embeddings().weight[:0][None].float()
    scores = continuation_scores(base, none, plan([whole], prompt_length=0, layout="concatenated"))
    expected = -scores.sum() / sum(len(tokens.label_ids[e.label]) for e in rows)
    assert found == pytest.approx(expected.item(), rel=1e-5)


def complaints(**changes):
    """(the bundled model, a few test rows of the bundled data)."""
    base, config = load_model("bundled"), TrainConfig()
    tokens = tokenise(load_task(config), base.tokenizer, config, context=base.context)
    return base, replace(tokens, splits={**tokens.splits, "test": tokens.splits["test"][:3], **changes})


def no_stop():
    return False


def test_few_shot_is_the_written_prompt_and_labelled_examples_before_the_text():
    base, tokens = complaints()
    found = Outcomes(base, tokens, "concatenated").baselines("Is it good?", shots=4, seed=1, should_stop=no_stop)
    shots = draw_shots(tokens, 4, seed=1)
    decode = base.tokenizer.decode
    shown = "".join(f"{decode(e.context)} {tokens.task.labels[e.label]}\n" for e in shots)
    words = base.tokenizer.encode("Is it good?\n", add_special_tokens=False) + [
        i for e in shots for i in shot_ids(base, tokens, e, begin=())
    ]
    assert decode(words) == f"Is it good?\n{shown}"
    whole = [Row((*words, *e.context), (tokens.label_ids[e.label],)) for e in tokens.splits["test"]]
    none = base.module.get_input_embeddings().weight[:0][None].float()
    scores = continuation_scores(base, none, plan([whole], prompt_length=0, layout="concatenated"))
    expected = -scores.sum() / sum(len(tokens.label_ids[e.label]) for e in tokens.splits["test"])
    assert found["few_shot"]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert (found["few_shot"]["text"], found["few_shot"]["shots"]) == ("Is it good?", 4)
    assert set(found["few_shot"]) == {*found["hand_written"], "shots"}


def test_words_are_tried_without_pefts_padding():
    base, tokens = complaints()
    found, expected = (
        Outcomes(base, tokens, layout).baselines("Is it good?", should_stop=no_stop)
        for layout in ("peft", "concatenated")
    )
    assert found == expected


def test_few_shot_is_left_out_unless_it_is_asked_for():
    base, tokens = complaints()
    found = Outcomes(base, tokens, "concatenated").baselines("Is it good?", should_stop=no_stop)
    assert set(found) == {"majority", "hand_written", "no_prompt"}


def test_shots_are_drawn_by_seed_with_balanced_labels():
    _, tokens = complaints()
    for count in (1, 4, 7):
        drawn = draw_shots(tokens, count, seed=0)
        labels = [example.label for example in drawn]
        assert len({example.context for example in drawn}) == count
        assert abs(labels.count(0) - labels.count(1)) <= 1
        assert drawn == draw_shots(tokens, count, seed=0) != draw_shots(tokens, count, seed=1)


def test_shots_beyond_the_training_rows_are_all_there_is():
    _, tokens = complaints(train=[Example((5, 6), 0), Example((7, 8), 1), Example((9,), 1)])
    assert sorted(e.context for e in draw_shots(tokens, 10, seed=0)) == [(5, 6), (7, 8), (9,)]


def test_only_shots_that_fit_the_context_are_shown_and_counted():
    base, tokens = complaints()
    narrow = replace(base, context=tokens.longest_tokens + 40)
    found = Outcomes(narrow, tokens, "concatenated").baselines("Is it?", shots=8, seed=1, should_stop=no_stop)
    assert 0 < found["few_shot"]["shots"] < 8
