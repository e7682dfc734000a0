import numpy as np
import torch

from softprompt_core.inspection.attention import attention_mass
from softprompt_core.inspection.forward import forward, showing_attention


def test_mass_is_a_share_for_every_layer_and_head(studied):
    found = attention_mass(studied.effect, studied.prompt, rows=12)
    config = studied.effect.base.module.config
    assert found.mass.shape == (config.num_hidden_layers, config.num_attention_heads, 8)
    assert (found.mass >= 0).all()
    assert (found.by_layer_and_head <= 1 + 1e-5).all()


def test_what_the_prompt_does_not_get_goes_to_the_text(studied):
    text = studied.effect.examples[0].context
    one = studied.effect.part([0])
    found = attention_mass(one, studied.prompt)
    with torch.no_grad():
        whole = forward(
            one.base, torch.from_numpy(studied.prompt), [text], module=showing_attention(one.base), with_attentions=True
        ).attentions
    content = np.stack([layer[0, :, 7 + len(text), 8:].sum(1).numpy() for layer in whole])
    assert np.allclose(found.by_layer_and_head + content, 1.0, atol=1e-5)


def test_the_eager_copy_computes_what_the_model_computes(studied):
    texts = [example.context for example in studied.effect.examples[:3]]
    prompt = torch.from_numpy(studied.prompt)
    with torch.no_grad():
        fast = forward(studied.effect.base, prompt, texts).logits
        shown = forward(studied.effect.base, prompt, texts, module=showing_attention(studied.effect.base)).logits
    length = 8 + min(map(len, texts))
    assert torch.allclose(fast[:, :length], shown[:, :length], atol=1e-4)
