"""Optimisers against their references, and their state as a checkpoint keeps it."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.optimization import Adafactor

from softprompt_core.config import TrainConfig
from softprompt_core.optimisers import build_optimizer, optimizer_state, restore_optimizer

SHAPE = (6, 16)


def started(seed=0, shape=SHAPE):
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def gradients(steps, shape=SHAPE):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def stepped(optimizer, parameter, given):
    for gradient in given:
        parameter.grad = gradient.clone().view(parameter.shape)
        optimizer.step()
    return parameter.detach().clone()


def paper_step(parameter, moment, gradient, *, step, lr, weight_decay):
    """One step of t5x's Adafactor, unfactored and unscaled, written out in float64."""
    decay = 1 - step**-0.8
    moment = decay * moment + (1 - decay) * (gradient**2 + 1e-30)
    update = gradient / moment.sqrt()
    update = update / max(1.0, update.pow(2).mean().sqrt().item())
    return (1 - weight_decay) * parameter - lr * update, moment


def test_adafactor_is_the_papers_step_by_step():
    config = TrainConfig(optimizer="adafactor", lr=0.3, weight_decay=1e-3)
    parameter, given = started(), gradients(6)
    expected, moment = parameter.detach().double(), torch.zeros(SHAPE, dtype=torch.float64)
    optimizer = build_optimizer(config, [parameter])
    for step, gradient in enumerate(given, start=1):
        expected, moment = paper_step(
            expected, moment, gradient.double(), step=step, lr=0.3, weight_decay=1e-3
        )
        found = stepped(optimizer, parameter, [gradient]).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_adafactor_equals_that_of_transformers_where_its_moments_are_whole_too():
    parameter, flat, given = started(), torch.nn.Parameter(started().detach().flatten()), gradients(5)
    found = stepped(build_optimizer(TrainConfig(optimizer="adafactor", lr=0.3), [parameter]), parameter, given)
    reference = Adafactor([flat], lr=0.3, scale_parameter=False, relative_step=False)
    assert torch.equal(found.flatten(), stepped(reference, flat, given))


def test_adafactor_of_weight_matrices_equals_that_of_transformers():
    ours, theirs, given = started(), started(), gradients(5)
    config = TrainConfig(method="full", optimizer="adafactor", lr=0.01)
    reference = Adafactor([theirs], lr=0.01, scale_parameter=False, relative_step=False)
    assert torch.equal(stepped(build_optimizer(config, [ours]), ours, given), stepped(reference, theirs, given))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_adafactor_steps_as_far_whatever_the_size_of_prompt_and_gradient(scale):
    parameter = torch.nn.Parameter(started().detach() * scale)
    before = parameter.detach().clone()
    given = [gradient * scale for gradient in gradients(1)]
    after = stepped(build_optimizer(TrainConfig(optimizer="adafactor", lr=0.3), [parameter]), parameter, given)
    assert (after - before).pow(2).mean().sqrt().item() == pytest.approx(0.3, rel=0.1)


def test_weight_decay_of_adafactor_does_not_wait_for_the_learning_rate():
    parameter = started()
    before = parameter.detach().clone()
    config = TrainConfig(optimizer="adafactor", lr=1e-9, weight_decay=0.01)
    after = stepped(build_optimizer(config, [parameter]), parameter, gradients(1))
    assert torch.allclose(after, before * 0.99)


def test_adamw_is_that_of_torch():
    ours, theirs, given = started(), started(), gradients(5)
    found = stepped(build_optimizer(TrainConfig(lr=0.03, weight_decay=0.1), [ours]), ours, given)
    assert torch.equal(found, stepped(torch.optim.AdamW([theirs], lr=0.03, weight_decay=0.1), theirs, given))


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("method", ["prompt", "full"])
def test_five_steps_after_a_restore_are_those_without_one_to_the_last_bit(optimizer, method):
    config = TrainConfig(method=method, optimizer=optimizer, lr=0.3, weight_decay=1e-5)
    whole, halved, given = started(), started(), gradients(10)
    expected = stepped(build_optimizer(config, [whole]), whole, given)
    first = build_optimizer(config, [halved])
    stepped(first, halved, given[:5])
    tensors, values = optimizer_state(first)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in values.values())
    again = torch.nn.Parameter(halved.detach().clone())
    second = build_optimizer(config, [again])
    restore_optimizer(second, tensors, values)
    assert torch.equal(stepped(second, again, given[5:]), expected)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_what_is_restored_is_a_copy(optimizer):
    config, parameter = TrainConfig(optimizer=optimizer), started()
    first = build_optimizer(config, [parameter])
    stepped(first, parameter, gradients(2))
    tensors, values = optimizer_state(first)
    kept = {name: tensor.copy() for name, tensor in tensors.items()}
    other = started()
    second = build_optimizer(config, [other])
    restore_optimizer(second, tensors, values)
    stepped(second, other, gradients(2))
    assert all((kept[name] == tensor).all() for name, tensor in tensors.items())
