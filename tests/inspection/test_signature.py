import numpy as np
import torch

from softprompt_core.inspection.signature import continued_text, expected_words, signature_words
from softprompt_core.models import embedding_table


def test_signature_is_the_mean_change_of_log_p_where_the_answer_begins(studied, vocabulary):
    part = studied.effect.part(range(3))
    found = signature_words(part, studied.prompt, vocabulary)
    assert found.raised
    word = found.raised[0]
    changes = []
    for example in part.examples:
        text = torch.tensor([example.context])
        words = part.base.module.get_input_embeddings()(text)
        both = torch.cat([torch.from_numpy(studied.prompt)[None], words], dim=1)
        with torch.no_grad():
            after = part.base.module(inputs_embeds=both).logits[0, -1].log_softmax(-1)[word.id]
            alone = part.base.module(text).logits[0, -1].log_softmax(-1)[word.id]
        changes.append(float(after - alone))
    assert np.isclose(word.score, np.mean(changes), atol=1e-3)


def test_raised_words_rise_and_lowered_words_fall(studied, vocabulary):
    found = signature_words(studied.effect.part(range(6)), studied.prompt, vocabulary, top=5)
    assert all(word.score > 0 for word in found.raised)
    assert all(word.score < 0 for word in found.lowered)
    assert [w.score for w in found.raised] == sorted((w.score for w in found.raised), reverse=True)


def test_words_go_on_as_the_model_would_go_on_from_the_same_text(studied):
    base = studied.effect.base
    ids = base.tokenizer.encode("The old man sat by the", add_special_tokens=False)
    found = continued_text(base, embedding_table(base)[ids].numpy(), tokens=8)
    with torch.no_grad():
        said = base.module.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=8, do_sample=False, pad_token_id=base.tokenizer.eos_token_id,
        )[0, len(ids):]
    assert found == base.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_every_virtual_token_has_words_expected_after_it(studied, vocabulary):
    found = expected_words(studied.effect.base, studied.prompt, vocabulary, top=3)
    assert [len(words) for words in found] == [3] * 8
    assert all(vocabulary.is_listed[word.id] for words in found for word in words)
