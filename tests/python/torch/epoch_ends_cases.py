"""Epochs of uneven samplers end when the last gradients have been applied, and not before."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from gearshift_testing import case
from gearshift_testing.epochs import batches, data, loader_of, uneven
from gearshift_testing.training import assert_equal_everywhere, difference
from torch import Tensor, nn

import gearshift as gs
import gearshift.torch as gst


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def loss_of(models: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(models[1](models[0](x).tanh()), y)


def pair() -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Linear(6, 5).double(), nn.Linear(5, 3).double()]


def backwards_then_steps(
    models: list[nn.Module], optimizers: list[torch.optim.Optimizer], x: Tensor, y: Tensor
) -> None:
    for o in optimizers:
        o.zero_grad()
    loss_of(models, x, y).backward()
    for o in optimizers:
        o.step()


def train_two(between: Callable[[list[nn.Module], int], None], strategy: str) -> None:
    """Two models with one loss; `between` is called after each batch."""
    models = pair()
    alone = copy.deepcopy(models)
    optimizers = [gst.distribute(m, sgd(m), strategy)[1] for m in models]
    references = [sgd(m) for m in alone]
    dataset = uneven()
    for _ in range(3):
        for k, (x, y) in enumerate(loader_of(dataset)):
            backwards_then_steps(models, optimizers, x, y)
            between(models, k)
        for x, y in batches(dataset):
            backwards_then_steps(alone, references, x, y)
    gs.barrier()
    for model, other in zip(models, alone, strict=True):
        assert_equal_everywhere(model)
        assert difference(model, other) < 1e-12
        assert gst.stats(model)["step"] == 9
    for model in models:
        gst.release(model)


@case([2, 3])
def two_models_with_one_loss() -> None:
    """The first one's step on the last batch must not end the epoch: the other's is to come."""
    for strategy in ("all_reduce", "ps:bsp"):
        train_two(lambda models, k: None, strategy)


@case([2])
def an_evaluation_of_one_of_two_models_within_an_epoch() -> None:
    held_out = data(13)

    def evaluate(models: list[nn.Module], k: int) -> None:
        if k == 1:
            models[0].eval()
            for x, _ in loader_of(held_out):
                with torch.no_grad():
                    models[0](x)
            models[0].train()

    for strategy in ("all_reduce", "ps:bsp"):
        train_two(evaluate, strategy)


@case([2])
def an_evaluation_in_training_mode_within_an_epoch() -> None:
    held_out = data(13)
    for workers in (0, 1):
        for at in (0, 1):

            def evaluate(
                models: list[nn.Module], k: int, at: int = at, workers: int = workers
            ) -> None:
                if k == at:
                    for x, y in loader_of(held_out, workers):
                        with torch.no_grad():
                            loss_of(models, x, y)

            train_two(evaluate, "all_reduce")


@case([2])
def an_epoch_that_is_left_for_another_sampler() -> None:
    """Ranks leave it at different batches; what follows is an epoch of its own."""
    model = pair()[0]
    model, optimizer = gst.distribute(model, sgd(model))

    def train(x: Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    for _ in range(2):
        for k, (x, _y) in enumerate(loader_of(data(60))):
            train(x)
            if k == 2 + gs.rank():
                break
        for x, _y in loader_of(uneven()):
            train(x)
    gs.barrier()
    assert_equal_everywhere(model)
    assert gst.stats(model)["step"] == 2 * (4 + 3)
    gst.release(model)


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is often written: two calls, and no step of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def first_step(self) -> None:
        for p in self._parameters():
            assert p.grad is not None
            self.state[p]["moved"] = 0.05 * p.grad
            p.add_(self.state[p]["moved"])

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self._parameters():
            p.sub_(self.state[p]["moved"])
        self.base.step()


@case([2])
def an_optimizer_that_makes_no_steps() -> None:
    """Ranks cannot be told apart by their steps, but by whose rounds they only took part in."""
    model, alone = pair()[0], pair()[0]
    model, optimizer = gst.distribute(model, Sam(model))
    reference = Sam(alone)

    def train(m: nn.Module, o: Sam, x: Tensor) -> None:
        m(x).square().mean().backward()
        o.first_step()
        o.zero_grad()
        m(x).square().mean().backward()
        o.second_step()
        o.zero_grad()

    dataset = uneven()
    for _ in range(3):
        for x, _y in loader_of(dataset):
            train(model, optimizer, x)
        for x, _y in batches(dataset):
            train(alone, reference, x)
    gs.barrier()
    assert_equal_everywhere(model)
    assert difference(model, alone) < 1e-12
    gst.release(model)
