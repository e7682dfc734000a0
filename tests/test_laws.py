"""What a step may not depend on: order, padding, packing, company, accumulation; and how far eight steps may drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softprompt_core.config import TrainConfig
from softprompt_core.layouts import batch_losses
from softprompt_core.models import BaseModel
from softprompt_core.plans import LayoutName, Row
from softprompt_core.records import Snapshot, StepRecord
from softprompt_core.training import train
from tests.reference import Answer, loss_by_hand, prompts_of, relative, some_rows
from tests.tiny import VOCABULARY, tiny_model

LAYOUTS: tuple[LayoutName, ...] = ("packed", "cached", "concatenated")
FAMILIES = ("llama", "gpt2", "opt")
P = 5
quickly = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ids = st.integers(2, VOCABULARY - 1)
a_row = st.builds(Row, st.lists(ids, min_size=1, max_size=12), st.tuples(st.lists(ids, min_size=1, max_size=4)))
some = st.builds(
    lambda beginning, rows: [Row([*beginning, *row.context], row.continuations) for row in rows],
    st.lists(ids, max_size=6), st.lists(a_row, min_size=2, max_size=8),
)       # rows that begin alike, as a template makes them, or not
layouts = st.sampled_from(LAYOUTS)
models = st.sampled_from(FAMILIES).map(lambda family: model(family))

Step = Callable[[BaseModel, torch.Tensor, Sequence[Row]], torch.Tensor]
"""One way to the loss of a batch for a prompt [P, H], with its graph."""


@cache
def model(family: str, dtype: torch.dtype = torch.float32) -> BaseModel:
    return tiny_model(family, dtype=dtype)


def label_tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.continuations[0]) for row in rows)


def plainly(layout: LayoutName) -> Step:
    return lambda base, prompt, rows: batch_losses(base, prompt[None], [rows], layout=layout)[0][0]


def in_company(layout: LayoutName, place: int = 1) -> Step:
    """The loss of one of three prompts that go through the model together."""

    def step(base: BaseModel, prompt: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        others = prompts_of(2, len(prompt), seed=7).to(prompt.dtype)
        prompts = torch.stack([*others[:place], prompt, *others[place:]])
        batches = [some_rows(3, seed=8), some_rows(5, seed=9)]
        batches.insert(place, list(rows))
        return batch_losses(base, prompts, batches, layout=layout)[0][place]

    return step


def in_parts(layout: LayoutName, cuts: Sequence[int]) -> Step:
    """The loss summed over micro-batches, each weighing as much as it has label tokens."""

    def step(base: BaseModel, prompt: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        parts = [rows[a:b] for a, b in pairwise([0, *sorted({c % len(rows) for c in cuts} - {0}), len(rows)])]
        losses = [plainly(layout)(base, prompt, part) * label_tokens(part) for part in parts]
        return torch.stack(losses).sum() / label_tokens(rows)

    return step


def backwards(layout: LayoutName) -> Step:
    return lambda base, prompt, rows: plainly(layout)(base, prompt, list(reversed(rows)))


def padded_on_the_left(base: BaseModel, prompt: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The loss of rows `[padding | prompt | text | label]` with a mask and positions that leave the padding out."""
    full = [[*row.context, *row.continuations[0]] for row in rows]
    width = max(map(len, full))
    words = base.module.get_input_embeddings()(torch.tensor([[1] * (width - len(f)) + f for f in full]))
    lines = [
        torch.cat([words[i, :width - len(f)], prompt.to(words.dtype), words[i, width - len(f):]])
        for i, f in enumerate(full)
    ]
    mask = torch.tensor([[0] * (width - len(f)) + [1] * (len(prompt) + len(f)) for f in full])
    logits = base.module(
        inputs_embeds=torch.stack(lines), attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
    ).logits
    total = prompt.new_zeros(())
    for line, row in zip(logits, rows, strict=True):
        label = list(row.continuations[0])
        total = total - torch.log_softmax(line[-len(label) - 1:-1], dim=-1)[range(len(label)), label].sum()
    return total / label_tokens(rows)


def answer(step: Step, base: BaseModel, rows: Sequence[Row]) -> Answer:
    leaf = prompts_of(1, P)[0].to(base.dtype).requires_grad_(True)
    loss = step(base, leaf, rows)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def assert_same(step: Step, other: Step, base: BaseModel, rows: Sequence[Row]) -> None:
    for found, expected in zip(answer(step, base, rows), answer(other, base, rows), strict=True):
        assert relative(found, expected) <= 1e-5


@quickly
@given(models, layouts, some, st.randoms())
def test_order_of_rows_inside_a_step_changes_nothing(base, layout, rows, random):
    shuffled = random.sample(rows, len(rows))
    assert_same(lambda b, p, _: plainly(layout)(b, p, shuffled), plainly(layout), base, rows)


@quickly
@given(models, layouts, some)
def test_padding_on_the_left_or_not_at_all_changes_nothing(base, layout, rows):
    assert_same(plainly(layout), padded_on_the_left, base, rows)
    assert_same(plainly(layout), loss_by_hand, base, rows)


@quickly
@given(models, st.sampled_from(["packed", "cached"]), some)
def test_packed_or_cached_or_neither_changes_nothing(base, layout, rows):
    assert_same(plainly(layout), plainly("concatenated"), base, rows)


@quickly
@given(models, layouts, some, st.integers(0, 2))
def test_other_prompts_in_the_pass_change_nothing(base, layout, rows, place):
    assert_same(in_company(layout, place), plainly(layout), base, rows)


@quickly
@given(models, layouts, some, st.lists(st.integers(1, 7), max_size=4))
def test_micro_batches_of_any_size_change_nothing(base, layout, rows, cuts):
    assert_same(in_parts(layout, cuts), plainly(layout), base, rows)


WAYS: dict[str, Step] = {
    "packed": plainly("packed"),
    "cached": plainly("cached"),
    "concatenated": plainly("concatenated"),
    "rows backwards": backwards("packed"),
    "in company": in_company("packed"),
    "accumulated 4 × 2": in_parts("packed", (2, 4, 6)),
    "padded on the left": padded_on_the_left,
}


def trained(step: Step, base: BaseModel, *, steps: int) -> torch.Tensor:
    prompt = torch.nn.Parameter(prompts_of(1, P)[0].to(base.dtype))
    optimizer = torch.optim.AdamW([prompt], lr=0.03, weight_decay=0.0)
    for number in range(steps):
        optimizer.zero_grad()
        step(base, prompt, some_rows(8, seed=number)).backward()
        optimizer.step()
    return prompt.detach()


@cache
def trained_by_hand(family: str, dtype: torch.dtype, steps: int) -> torch.Tensor:
    return trained(loss_by_hand, model(family, dtype), steps=steps)


@pytest.mark.parametrize("way", WAYS)
def test_eight_optimiser_steps_end_at_the_same_prompt(way):
    found = trained(WAYS[way], model("llama"), steps=8)
    assert relative(found, trained_by_hand("llama", torch.float32, 8)) <= 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_twenty_steps_in_double_precision_end_at_the_same_prompt(way):
    found = trained(WAYS[way], model("gpt2", torch.float64), steps=20)      # Llama's norms compute in float32
    assert found.dtype == torch.float64
    assert relative(found, trained_by_hand("gpt2", torch.float64, 20)) <= 1e-9


def test_training_accumulates_four_batches_of_two_into_one_of_eight(tmp_path):
    texts = [f"parcel {i}" + " late and broken" * (i % 3) for i in range(40)]
    lines = [f"{text},{('bad', 'rather good')[i % 2]}\n" for i, text in enumerate(texts)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(lines))
    ends = []
    for size, accumulation in ((8, 1), (2, 4)):
        config = TrainConfig(
            data=str(tmp_path / "rows.csv"), steps=6, virtual_tokens=P, batch_size=size, accumulation=accumulation,
            device="cpu", dtype="fp32",
        )
        records = list(train({"a": config}))
        losses = torch.tensor([r.loss for r in records if isinstance(r, StepRecord)])
        ends.append((losses, next(r.prompt for r in records if isinstance(r, Snapshot) and r.step == 6)))
    (losses, prompt), (expected, right) = ends[1], ends[0]
    assert relative(losses, expected) <= 1e-5
    assert relative(torch.from_numpy(prompt), torch.from_numpy(right)) <= 1e-5
