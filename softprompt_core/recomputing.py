"""Gradient checkpointing: activations that are computed twice instead of kept (Chen et al. 2016)."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.checkpoint import checkpoint

from softprompt_core.copies import structural_copy
from softprompt_core.errors import UserError
from softprompt_core.models import BaseModel


def recomputing(base: BaseModel) -> BaseModel:
    """The same model, its weights shared, that keeps only what goes into each layer for the backward pass.

    transformers' own switch asks for training mode, which turns dropout on, and would change the frozen model that
    other threads use. So here a structural copy gets layers of a class that computes twice; copies of it, with LoRA
    put in for instance, do so too. The model's class gets another name: whoever knows a class by heart and goes
    round its layers (`trunk`) does not know this one.

    Raises UserError where the model has no layers of the kind that can be computed again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    own = structural_copy(base)
    layers = [module for module in own.module.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"gradient checkpointing: the layers of model {base.name!r} cannot be computed a second time. "
            "Turn it off; a smaller batch size saves memory too."
        )
    kinds = {type(layer): _twice(type(layer)) for layer in layers}
    for layer in layers:
        layer.__class__ = kinds[type(layer)]
    own.module.__class__ = type(f"Recomputing{type(base.module).__name__}", (type(base.module),), {})
    return own


def _twice(kind: type) -> type:
    """A class of layer like this one, of whose forward pass the backward pass computes the inside again."""

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        before = [_as_it_is(value) for value in (*arguments, *named.values())]
        is_again = False

        def run(*given: Any) -> Any:
            nonlocal is_again
            if is_again:        # by now the layer's own keys and values stand in the cache
                given = tuple(_as_it_is(old) if _is_cache(old) else new for old, new in zip(before, given, strict=True))
            is_again = True
            places = dict(zip(named, given[len(arguments):], strict=True))
            return kind.forward(self, *given[:len(arguments)], **places)      # type: ignore[attr-defined]

        return checkpoint(run, *arguments, *named.values(), use_reentrant=False, preserve_rng_state=False)

    return type(f"Recomputing{kind.__name__}", (kind,), {"forward": forward})


def _is_cache(value: Any) -> bool:
    from transformers import Cache

    return isinstance(value, Cache)


def _as_it_is(value: Any) -> Any:
    """A cache of keys and values as it is now, which what layers add later leaves alone; anything else itself."""
    if not _is_cache(value) or not hasattr(value, "layers"):
        return value
    kept = copy.copy(value)
    kept.layers = [copy.copy(layer) for layer in value.layers]
    return kept
