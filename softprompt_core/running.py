"""One run while it trains: what it learns, where it stands in the data, the best so far, and all that as a checkpoint.

A checkpoint holds everything the next step depends on, so a run that is stopped at any step and resumed gives the
same losses, to the last bit, as one that never stopped (on a CPU in float32).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from softprompt_core.config import PROMPT_METHODS, TrainConfig
from softprompt_core.errors import UserError
from softprompt_core.evaluation import Evaluation
from softprompt_core.methods import Method, as_array
from softprompt_core.optimisers import optimizer_state, restore_optimizer
from softprompt_core.records import Checkpoint, FloatArray, Tensors

DIVERGED_FACTOR, DIVERGED_STEPS = 5.0, 50
"""A run whose loss stays above its start times the factor for so many steps has diverged."""
DIVERGED_START = 0.2
"""Nats a token that a start counts as at least: one that is nearly right (from another run) may well get worse."""
NO_FIGURE = (math.inf, math.inf)


class Order:
    """Batches of row numbers without end: every epoch in a new order, its last batch as short as it comes."""

    def __init__(self, rows: int, *, batch_size: int, seed: int) -> None:
        self._rows, self._batch_size = rows, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._begin_epoch()

    def next(self) -> list[int]:
        """The row numbers of the next batch."""
        if self._place >= self._rows:
            self._begin_epoch()
        batch = self._order[self._place:self._place + self._batch_size]
        self._place += len(batch)
        return batch

    def _begin_epoch(self) -> None:
        self._before = self._generator.get_state()
        self._order: list[int] = torch.randperm(self._rows, generator=self._generator).tolist()
        self._place = 0

    def state(self) -> tuple[np.ndarray, int]:
        """(the generator's state before this epoch's order was drawn, rows of the epoch already given)."""
        return self._before.numpy().copy(), self._place

    def restore(self, state: np.ndarray, place: int) -> None:
        """Puts back what `state` gave."""
        self._generator.set_state(torch.from_numpy(state.copy()))
        self._begin_epoch()
        self._place = place


@dataclass
class Running:
    """One run while it trains."""

    run_id: str
    config: TrainConfig
    method: Method
    optimizer: torch.optim.Optimizer
    order: Order
    rows_in_epoch: int
    written: str
    init_ids: list[int] | None
    made_of: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    tokens: int = 0
    step: int = 0
    seconds_before: float = 0.0
    held_since: float | None = None
    loss: float = math.nan
    first_loss: float = math.nan
    steps_above: int = 0
    best_figure: tuple[float, float] = NO_FIGURE
    best: Tensors | None = None
    best_prompt: FloatArray | None = None
    best_step: int = 0
    looks_since_best: int = 0
    looked_at: int = -1

    @property
    def has_prompt(self) -> bool:
        """Whether what was learned can be shown as virtual tokens."""
        return self.config.method in PROMPT_METHODS

    def prompt(self) -> FloatArray:
        """The virtual tokens now, [P, H]."""
        lead = self.method.lead()
        assert isinstance(lead, torch.Tensor), "only methods with virtual tokens are asked for them"
        return as_array(lead)

    def note_loss(self, loss: float) -> None:
        """Counts how long the loss has stayed far above its start."""
        self.loss = loss
        if math.isnan(self.first_loss):
            self.first_loss = loss
        limit = DIVERGED_FACTOR * max(self.first_loss, DIVERGED_START)
        self.steps_above = self.steps_above + 1 if loss > limit else 0

    def trouble(self) -> str:
        """Why the run cannot go on, with what to try; empty while all is well."""
        kept = f"the {'prompt' if self.has_prompt else 'state'} of step {self.selected_step}"
        why = "the last one, as none was looked at before that" if self.best is None else "the best one before that"
        advice = f"{kept}, {why}, was kept. Try a learning rate below {self.config.lr:g}"
        if not math.isfinite(self.loss):
            return f"The loss or its gradient stopped being a number at step {self.step}; {advice}, or dtype fp32."
        if self.steps_above >= DIVERGED_STEPS:
            far = f"The loss has been over {DIVERGED_FACTOR:g} times its start for {DIVERGED_STEPS} steps"
            return f"{far} (now {self.loss:.3g}, first {self.first_loss:.3g}); {advice}, or a longer warm-up."
        return ""

    def note_validation(self, found: Evaluation) -> None:
        """Keeps the present state if it is the best so far; of two that are as accurate, that of the lower loss.

        One whose loss is no number is never the best, however its guesses fall.
        """
        figure = (found.loss, -found.accuracy)
        figure = figure if self.config.select_by == "loss" else (-found.accuracy, found.loss)
        self.looks_since_best += 1
        if math.isfinite(found.loss) and figure < self.best_figure:
            self.best_figure, self.best, self.best_step = figure, self.method.tensors(), self.step
            self.best_prompt = self.prompt() if self.has_prompt else None
            self.looks_since_best = 0

    @property
    def is_out_of_patience(self) -> bool:
        return self.config.patience is not None and self.looks_since_best >= self.config.patience

    @property
    def selected_step(self) -> int:
        """The step whose state is the run's result: the best on validation, or the last where none was measured."""
        return self.step if self.best is None else self.best_step

    def select(self) -> int:
        """Puts the best state back into the method, where one was measured; returns its step."""
        if self.best is not None:
            self.method.restore(self.best)
        return self.selected_step

    def release(self, now: float) -> None:
        """Goes on after a pause, whose time does not count."""
        if self.held_since is not None:
            self.seconds_before, self.held_since = self.seconds_before - (now - self.held_since), None

    # -------------------------------------------------------------- checkpoint

    def checkpoint(self, *, seconds: float) -> Checkpoint:
        """Everything the next step depends on; seconds: of training since this program took the run up."""
        remembered, values = optimizer_state(self.optimizer)
        generator, place = self.order.state()
        tensors: Tensors = {f"trained.{key}": value for key, value in self.method.tensors().items()}
        tensors |= {f"optimizer.{key}": value for key, value in remembered.items()}
        tensors |= {f"best.{key}": value for key, value in (self.best or {}).items()}
        if self.best_prompt is not None:
            tensors["best_prompt"] = self.best_prompt
        tensors["order"] = generator
        facts = {
            "made_of": self.made_of, "steps": self.config.steps, "place": place, "optimizer": values,
            "seconds": self.seconds_before + seconds, "rows": self.rows, "tokens": self.tokens,
            "loss": self.loss, "first_loss": self.first_loss, "steps_above": self.steps_above,
            "best_figure": self.best_figure if self.best is not None else None, "best_step": self.best_step,
            "looks_since_best": self.looks_since_best, "looked_at": self.looked_at,
        }
        return Checkpoint(self.run_id, self.step, tensors, facts)

    def restore(self, saved: Checkpoint) -> None:
        """Puts back what `checkpoint` gave. Raises UserError when it does not belong to these settings.

        A run that goes on to more steps than it had meant to has all its patience again.
        """
        facts, tensors = saved.facts, saved.tensors
        for what, before in facts.get("made_of", {}).items():
            if before != self.made_of.get(what):
                raise UserError(
                    f"The {what} of run {self.run_id!r} is no longer what it was trained on, so it cannot go on as it "
                    "would have. Put the old one back, or fork the run to go on with the new one."
                )
        try:
            self.method.restore(_part(tensors, "trained."))
            restore_optimizer(self.optimizer, _part(tensors, "optimizer."), facts["optimizer"])
            self.order.restore(tensors["order"], facts["place"])
            best = _part(tensors, "best.")
            self.best, self.best_prompt = best or None, tensors.get("best_prompt")
            self.best_figure = tuple(facts["best_figure"]) if best else NO_FIGURE
            self.step, self.seconds_before = saved.step, facts["seconds"]
            for name in (
                "rows", "tokens", "loss", "first_loss", "steps_above", "best_step", "looks_since_best", "looked_at",
            ):
                setattr(self, name, facts[name])
            if facts["steps"] != self.config.steps:
                self.looks_since_best = 0
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(
                f"The checkpoint of step {saved.step} does not fit the run's settings ({error}). "
                "Resume from another checkpoint or start the run anew."
            ) from None


    def begin_at(self, start: Checkpoint) -> None:
        """Begins with what another run had learned (`fork_of`). Raises UserError when it does not fit."""
        try:
            self.method.restore(_part(start.tensors, "trained."))
            if "optimizer" in start.facts:
                restore_optimizer(self.optimizer, _part(start.tensors, "optimizer."), start.facts["optimizer"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(
                f"What run {start.facts['parent']['run_id']!r} has learned does not fit these settings ({error}). "
                "Keep its model, method and number of virtual tokens."
            ) from None


def fork_of(saved: Checkpoint, run_id: str, *, keeps_optimizer: bool = False) -> Checkpoint:
    """The checkpoint of step 0 with which another run begins where `saved` stands."""
    kept = ("trained.", "optimizer.") if keeps_optimizer else ("trained.",)
    tensors = {key: value for key, value in saved.tensors.items() if key.startswith(kept)}
    facts: dict[str, Any] = {"parent": {"run_id": saved.run_id, "step": saved.step}}
    if keeps_optimizer:
        facts["optimizer"] = saved.facts.get("optimizer", {})
    return Checkpoint(run_id, 0, tensors, facts)


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
