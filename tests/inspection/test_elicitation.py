import numpy as np
import pytest
import torch

from softprompt_core.inspection.elicitation import Answer, Elicitation, answer_to, elicit, recovery
from softprompt_core.models import embedding_table
from softprompt_core.tokenising import text_token_ids


def test_a_text_in_the_prompts_place_recovers_itself(studied):
    text = "Is this a complaint or not?"
    soft = studied.effect.of_text(text)
    assert recovery(studied.effect, text, soft, studied.effect.of_nothing()) == pytest.approx(1.0)
    assert recovery(studied.effect, "", soft, studied.effect.of_nothing()) == 0.0


def test_a_prompt_made_of_words_is_asked_as_the_words_would_be(studied):
    base = studied.effect.base
    word = text_token_ids(" music", base.tokenizer)
    prompt = embedding_table(base)[word].numpy()
    found = answer_to(base, prompt, "She said that§ is", tokens=6)
    ids = [*text_token_ids("She said that", base.tokenizer), *word, *text_token_ids(" is", base.tokenizer)]
    with torch.no_grad():
        said = base.module.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=6, do_sample=False, pad_token_id=base.tokenizer.eos_token_id,
        )[0, len(ids):]
    text = base.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert found == (text.splitlines()[0].strip() if text else "")


def test_the_same_sweep_is_made_on_start_shuffle_and_another_prompt(studied):
    part = studied.effect.part(range(20))
    found = elicit(part, studied.prompt, start=studied.start, other=-studied.prompt, frames=("§ means", "Again: §."))
    assert set(found.controls) == {"start", "shuffled", "another prompt"}
    assert all(len(answers) == 2 for answers in [found.answers, *found.controls.values()])


def test_an_untrained_prompt_does_not_beat_its_own_null(studied):
    part = studied.effect.part(range(20))
    found = elicit(part, studied.start, start=studied.start, frames=("§ means",))
    assert not found.says_something


def test_only_more_than_every_control_says_something():
    def answers(*recoveries):
        return [Answer("§", "text", value) for value in recoveries]

    assert Elicitation(answers(0.6), {"start": answers(0.5)}).says_something
    assert not Elicitation(answers(0.5), {"start": answers(0.5)}).says_something
    assert not Elicitation(answers(-0.1), {"start": answers(-0.9)}).says_something
    assert np.isclose(Elicitation([], {}).best_control, 0.0)
