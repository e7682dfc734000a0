"""Learning rates against transformers' schedulers and the laws of a warm-up."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from softprompt_core.config import TrainConfig
from softprompt_core.schedules import learning_rate

CONFIGS = st.builds(
    TrainConfig,
    steps=st.integers(1, 500),
    warmup=st.floats(0, 1),
    lr=st.floats(1e-5, 10),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
)


def rates(config: TrainConfig) -> list[float]:
    return [learning_rate(config, step) for step in range(1, config.steps + 1)]


@given(CONFIGS)
def test_every_step_learns_and_none_faster_than_the_peak(config):
    assert all(0 < rate <= config.lr * (1 + 1e-12) for rate in rates(config))


@given(CONFIGS)
def test_peak_is_reached_where_the_warm_up_ends(config):
    warm = round(config.warmup * config.steps)
    assert learning_rate(config, max(1, warm)) == pytest.approx(config.lr)


@given(CONFIGS)
def test_rates_rise_to_the_peak_and_never_again(config):
    found, warm = rates(config), round(config.warmup * config.steps)
    rounding = config.lr * 1e-12
    rises = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert all(rise >= -rounding for rise in rises[:max(0, warm - 1)])
    assert all(rise <= rounding for rise in rises[max(0, warm - 1):])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_without_warm_up_rates_equal_those_of_transformers(schedule):
    config = TrainConfig(steps=40, warmup=0, lr=0.3, schedule=schedule)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    reference = get_scheduler(schedule, optimizer, num_warmup_steps=0, num_training_steps=config.steps)
    expected = []
    for _ in range(config.steps):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert rates(config) == pytest.approx(expected)


def test_warm_up_rises_in_equal_parts():
    config = TrainConfig(steps=100, warmup=0.1, lr=1.0)
    assert rates(config)[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])


def test_warm_up_over_the_whole_run_ends_at_the_peak():
    assert rates(TrainConfig(steps=4, warmup=1.0, lr=1.0)) == pytest.approx([0.25, 0.5, 0.75, 1.0])
