import numpy as np
import pytest

from softprompt_core.inspection.gradients import integrated_gradients
from softprompt_core.models import embedding_table


def test_attributions_add_up_to_what_the_prompt_gains(studied):
    found = integrated_gradients(studied.effect, studied.prompt, rows=4)
    assert found.is_complete == (found.error <= 0.01)
    assert found.is_complete
    mean = np.repeat(embedding_table(studied.effect.base).mean(0).numpy()[None], 8, axis=0)
    part = studied.effect.part(range(4))
    gained = part.of(mean).loss - part.of(studied.prompt).loss
    assert found.attribution.sum() == pytest.approx(gained, rel=0.02)


def test_a_token_at_the_mean_word_gets_nothing(studied):
    prompt = studied.prompt.copy()
    prompt[4] = embedding_table(studied.effect.base).mean(0).numpy()
    found = integrated_gradients(studied.effect, prompt, rows=4)
    assert abs(found.attribution[4]) <= 1e-6
