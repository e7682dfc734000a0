"""Gradient checkpointing: the same numbers, less memory, and the shared model left as it was."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from softprompt_core import trunk
from softprompt_core.errors import UserError
from softprompt_core.layouts import batch_losses
from softprompt_core.models import load_model
from softprompt_core.plans import Row
from softprompt_core.recomputing import recomputing
from tests.tiny import tiny_model

FAMILIES = ("llama", "gpt2", "gpt_neox", "opt", "qwen2", "gemma", "bloom", "mistral")
LAYOUTS = ("packed", "cached", "concatenated")


def rows(count=4, length=9):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 120, (count, length), generator=generator).tolist()
    return [Row(line[:length - 2 - i % 3], (line[length - 2 - i % 3:],)) for i, line in enumerate(ids)]


def loss_and_gradient(base, layout, given):
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randn(2, 3, base.hidden_size, generator=generator).requires_grad_()
    losses, _ = batch_losses(base, prompts, [given, given[:2]], layout=layout)
    losses.sum().backward()
    return losses.detach(), prompts.grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_model_itself(family, layout):
    base = tiny_model(family)
    trunk.give_up(base)     # which packs where the model's own pass, that is computed twice, may not
    try:
        expected = loss_and_gradient(base, layout, rows())
    except (RuntimeError, ValueError):
        pytest.skip(f"{family} bears no {layout} layout")
    for found, wanted in zip(loss_and_gradient(recomputing(base), layout, rows()), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def most_memory(work):
    """The most bytes that the CPU's tensors held at once beyond those there before, from every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    changes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("layout", ["packed", "concatenated"])
def test_memory_of_a_step_falls_by_two_fifths_at_least(layout):
    base = load_model("bundled")
    generator = torch.Generator().manual_seed(1)
    given = [
        Row(torch.randint(5, 5_000, (60,), generator=generator).tolist(), ([7, 8],)) for _ in range(16)
    ]
    twice = recomputing(base)
    loss_and_gradient(twice, layout, given)
    usual = most_memory(lambda: loss_and_gradient(base, layout, given))
    assert most_memory(lambda: loss_and_gradient(twice, layout, given)) < 0.6 * usual


def test_weights_are_shared_and_the_model_itself_is_left_as_it_was():
    base = tiny_model("llama")
    kinds = [type(module) for module in base.module.modules()]
    twice = recomputing(base)
    assert [type(module) for module in base.module.modules()] == kinds
    ours, theirs = (dict(m.module.named_parameters()) for m in (twice, base))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert not any(module.training for module in twice.module.modules())
    assert trunk.is_used(base)
    assert not trunk.is_used(twice)


def test_a_copy_with_other_layers_inside_computes_with_its_own():
    twice = recomputing(tiny_model("llama"))
    copied = copy.deepcopy(twice.module)
    with torch.no_grad():
        copied.model.layers[0].mlp.down_proj.weight.zero_()
    words = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    first, second = (m(inputs_embeds=words, use_cache=False).logits for m in (twice.module, copied))
    assert not torch.allclose(first, second)


def test_another_thread_may_use_the_model_meanwhile():
    base = tiny_model("gpt2")
    twice, expected = recomputing(base), loss_and_gradient(base, "packed", rows())
    found = {}

    def use(name, model):
        found[name] = [loss_and_gradient(model, "packed", rows()) for _ in range(10)]

    threads = [threading.Thread(target=use, args=pair) for pair in (("itself", base), ("twice", twice))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in found.values():
        for result in results:
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_a_model_without_such_layers_is_refused():
    base = tiny_model("llama")
    bare = torch.nn.Module()
    object.__setattr__(base, "module", bare)
    with pytest.raises(UserError, match="gradient checkpointing"):
        recomputing(base)
