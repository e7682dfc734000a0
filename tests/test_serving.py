from __future__ import annotations

import pytest
import torch

from softprompt_core.config import TrainConfig
from softprompt_core.data import load_task
from softprompt_core.errors import UserError
from softprompt_core.evaluation import label_scores
from softprompt_core.models import load_model
from softprompt_core.serving import predict
from softprompt_core.tokenising import tokenise

LABELS = ["complaint", "no complaint"]


@pytest.fixture(scope="module")
def base():
    return load_model("bundled")


@pytest.fixture(scope="module")
def prompt(base):
    return torch.randn(4, base.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.1


def test_predictions_are_the_scores_that_evaluation_uses(base, prompt):
    config = TrainConfig()
    task = load_task(config)
    tokens = tokenise(task, base.tokenizer, config, context=base.context)
    rows = [{"text": row["text"]} for row in task.splits["test"][:6]]
    found = predict(base, prompt, rows, config=config, labels=LABELS, text_column="text")
    expected = label_scores(
        base, prompt, [e.context for e in tokens.splits["test"][:6]], tokens.label_ids, layout="concatenated"
    )
    for row, scores in zip(found, expected, strict=True):
        assert [row["scores"][label] for label in LABELS] == pytest.approx(scores.tolist(), rel=1e-5)
        assert row["label"] == LABELS[int(scores.argmax())]
        assert sum(row["probabilities"].values()) == pytest.approx(1.0)


def test_a_row_gets_the_same_scores_alone_and_in_company(base, prompt):
    rows = [{"text": "The parcel never came."}, {"text": "Thanks!"}, {"text": "a much longer message " * 9}]
    together = predict(base, prompt, rows, config=TrainConfig(), labels=LABELS, text_column="text")
    for row, found in zip(rows, together, strict=True):
        (alone,) = predict(base, prompt, [row], config=TrainConfig(), labels=LABELS, text_column="text")
        assert alone["scores"] == pytest.approx(found["scores"], rel=1e-5)


def test_a_missing_column_is_named(base, prompt):
    config = TrainConfig(template="{subject}: {text}")
    with pytest.raises(UserError, match=r"\{subject\}"):
        predict(base, prompt, [{"text": "x"}], config=config, labels=LABELS, text_column="text")
