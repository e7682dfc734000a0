"""One run while it trains: the order of its rows, its best state, and when it cannot go on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from softprompt_core.config import TrainConfig
from softprompt_core.evaluation import Evaluation
from softprompt_core.running import Order, Running


def test_every_epoch_has_every_row_once_in_a_new_order():
    order = Order(10, batch_size=4, seed=0)
    epochs = [[row for _ in range(3) for row in order.next()] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_a_restored_order_goes_on_where_it_was():
    order = Order(10, batch_size=4, seed=3)
    for _ in range(5):
        order.next()
    again = Order(10, batch_size=4, seed=99)
    again.restore(*order.state())
    assert [again.next() for _ in range(9)] == [order.next() for _ in range(9)]


# -------------------------------------------------------- the best, and trouble


class Learner:
    """A method that has learned one number."""

    def __init__(self):
        self.number = 0.0

    def lead(self):
        return torch.full((1, 1), self.number)

    def tensors(self):
        return {"number": np.array([self.number])}


def running(**settings):
    config = TrainConfig(**settings)
    return Running(
        run_id="a", config=config, method=Learner(), optimizer=None, order=Order(4, batch_size=2, seed=0),
        rows_in_epoch=4, written="", init_ids=None,
    )


def look(run, *figures):
    """Looks at the validation split, each a (loss, accuracy), one step after another."""
    for loss, accuracy in figures:
        run.step += 1
        run.method.number = float(run.step)
        run.note_validation(Evaluation(loss, accuracy, accuracy, 8, np.zeros(8)))


def test_best_by_loss_is_the_lowest_whatever_the_accuracy():
    run = running()
    look(run, (0.9, 0.9), (0.5, 0.6), (0.7, 1.0))
    assert (run.best_step, run.best["number"][0], run.looks_since_best) == (2, 2.0, 1)


def test_best_by_accuracy_is_of_those_alike_the_one_with_the_lowest_loss():
    run = running(select_by="accuracy")
    look(run, (0.3, 0.6), (0.9, 0.8), (0.7, 0.8), (0.8, 0.8), (0.1, 0.7))
    assert (run.best_step, run.looks_since_best) == (3, 2)
    assert run.best_figure == (-0.8, 0.7)


@pytest.mark.parametrize("select_by", ["loss", "accuracy"])
def test_a_loss_that_is_no_number_is_never_the_best(select_by):
    run = running(select_by=select_by)
    look(run, (math.nan, 1.0), (2.0, 0.5), (math.inf, 1.0), (math.nan, 0.9))
    assert run.best_step == 2


def test_patience_counts_looks_since_the_best():
    run = running(patience=2)
    look(run, (0.9, 0.5), (0.8, 0.5), (0.85, 0.5))
    assert not run.is_out_of_patience
    look(run, (0.8, 0.5))
    assert run.is_out_of_patience


def losses(run, *given):
    for loss in given:
        run.step += 1
        run.note_loss(loss)


def test_a_loss_five_times_its_start_for_fifty_steps_is_trouble():
    run = running()
    losses(run, 1.0, *[5.1] * 49)
    assert run.trouble() == ""
    losses(run, 5.1)
    assert "over 5 times its start for 50 steps (now 5.1, first 1)" in run.trouble()
    assert "the prompt of step 51, the last one, as none was looked at before that, was kept" in run.trouble()


def test_one_good_step_in_between_begins_the_count_anew():
    run = running()
    losses(run, 1.0, *[6.0] * 49, 4.0, *[6.0] * 49)
    assert run.trouble() == ""


def test_a_start_that_is_nearly_right_may_get_worse():
    run = running()
    losses(run, 0.001, *[0.9] * 60)
    assert run.trouble() == ""
    losses(run, *[1.1] * 50)
    assert "over 5 times its start" in run.trouble()


def test_a_loss_that_is_no_number_is_trouble_at_once():
    run = running(lr=0.5)
    losses(run, 1.0, math.nan)
    assert "stopped being a number at step 2" in run.trouble()
    assert "learning rate below 0.5" in run.trouble()
