"""Tasks of the simulator's tests in real jobs: they learn what the simulated workers do.

Those are compared with one process, too, in ``tests/python/sim/test_learning_as_torch.py``.
"""

from __future__ import annotations

import torch
from gearshift_testing import case
from gearshift_testing import learning_tasks as tasks
from gearshift_testing.learning import alone
from gearshift_testing.training import difference

import gearshift as gs
import gearshift.torch as gst

STEPS = 30
TASKS = (tasks.one_cycle, tasks.in_epochs, tasks.groups_adamw, tasks.uneven_sgd, tasks.sparse)


def train(training: gst.SimulatedTraining, strategy: gs.strategy.Strategy | str) -> None:
    """The loop that a simulated training stands for; leaves the model as it became."""
    model, optimizer = gst.distribute(training.model, training.optimizer, strategy)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        batch = training.batch(gs.rank(), step, gs.world_size())
        gst.samples(tasks.BATCH)
        training.loss(model, batch).backward()
        optimizer.step()
        if training.scheduler is not None:
            training.scheduler.step()
        if training.epoch_scheduler is not None and step % training.steps_per_epoch == 0:
            training.epoch_scheduler.step()
    gst.release(model)


@case([2])
def synchronous_workers_learn_what_one_process_does() -> None:
    there_and_back = gs.StrategySwitch(
        gs.AllReduce(), gs.ParameterServer(), gs.At(step=8), gs.At(step=20)
    )
    for task in TASKS:
        wanted = alone(task.__name__, gs.world_size(), STEPS)
        for strategy in ("all_reduce", "ps:bsp", there_and_back):
            training = task()
            train(training, strategy)
            found = difference(training.model, wanted)
            assert found <= 1e-12, f"{task.__name__}, {strategy}: {found:.2e}"


@case([3])
def asynchronous_workers_leave_alone_what_they_do_not_use() -> None:
    training = tasks.lonely()
    train(training, gs.ParameterServer(gs.ASP(), lr_scaling="keep"))
    if gs.rank() == 1:  # others may have made their last step before
        own, wanted = training.model.get_parameter("own").detach(), tasks.lonely_alone(STEPS)
        torch.testing.assert_close(own, wanted, rtol=1e-12, atol=0)
