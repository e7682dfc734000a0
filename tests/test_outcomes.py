from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from softprompt_core.config import TrainConfig
from softprompt_core.data import load_task
from softprompt_core.layouts import continuation_scores
from softprompt_core.models import load_model
from softprompt_core.outcomes import Outcomes
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
