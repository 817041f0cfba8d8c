"""What cannot be distributed is refused, with the reason, before anything happens."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.training import batches, cross_entropy, make, share, train
from torch import nn

import gearshift as gs
import gearshift.torch as gst


def refused(kind: type[Exception], call: Callable[[], object], *words: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    for word in words:
        assert word in str(raised.value)


@case([1, 2])
def optimizers_that_are_not_elementwise() -> None:
    for cls, word in ((torch.optim.LBFGS, "whole vectors"), (torch.optim.SparseAdam, "sparse")):
        for strategy in ("parameter_server", "switch"):
            model = make("mlp")
            optimizer = cls(model.parameters())
            refused(
                gs.Unsupported,
                lambda m=model, o=optimizer, s=strategy: gst.distribute(m, o, s),
                cls.__name__,
                word,
                "all_reduce",
            )

    class Mine(torch.optim.SGD):
        pass

    model = make("mlp")
    optimizer = Mine(model.parameters(), lr=0.1)
    refused(gs.Unsupported, lambda: gst.distribute(model, optimizer, "ps:asp"), "elementwise=True")
    model, optimizer = gst.distribute(model, optimizer)  # under All-Reduce any will do
    train(model, optimizer, batches(2))
    gst.release(model)


@case([1])
def scripted_models() -> None:
    model = torch.jit.script(nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    call = functools.partial(gst.distribute, model, optimizer)
    refused(gs.Unsupported, call, "RecursiveScriptModule takes no hooks", "script that after")


@case([1])
def casts_of_a_distributed_model() -> None:
    for strategy in ("all_reduce", "ps:bsp"):
        model = make("mlp")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = gst.distribute(model, optimizer, strategy)
        train(model, optimizer, batches(2))
        dtype = next(model.parameters()).dtype
        other = torch.float32 if dtype == torch.float64 else torch.float64
        model.to(other)
        x, y = next(batches(1))
        loss = cross_entropy(model, x.to(other), y)
        refused(gs.InvalidArgument, loss.backward, f"became {other}", "cast the model before")


@case([1])
def strategies_and_arguments() -> None:
    model = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for bad in ("gossip", 3, ("ps:asp",)):
        refused(gs.InvalidArgument, lambda b=bad: gst.distribute(model, optimizer, b), "all_reduce")
    for bad in ("ps:ssp", "ps:ssp(-1)", "ps:buffered(0)"):
        refused(gs.InvalidArgument, lambda b=bad: gst.distribute(model, optimizer, b), "uffered")
    refused(gs.InvalidArgument, lambda: gst.distribute(model, None, "ps:asp"), "optimizer")
    switch = gs.StrategySwitch(policy=gs.At(fraction=0.5))
    refused(gs.InvalidArgument, lambda: gst.distribute(model, optimizer, switch), "total_steps")
    server = gs.ParameterServer(shards=5)
    refused(gs.InvalidArgument, lambda: gst.distribute(model, optimizer, server), "shards")
    server = gs.ParameterServer(servers=1)
    refused(gs.InvalidArgument, lambda: gst.distribute(model, optimizer, server), "--servers 1")
    refused(gs.InvalidArgument, lambda: gst.distribute(model, optimizer, stage="gpu"), "stage")
    refused(gs.InvalidArgument, lambda: gst.distribute(nn.ReLU()), "no parameter")
    lazy = nn.LazyLinear(3)
    refused(gs.InvalidArgument, lambda: gst.distribute(lazy), "lazy")
    other = nn.Linear(2, 2).double()
    both = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    refused(gs.InvalidArgument, lambda: gst.distribute(model, both), "ModuleList")
    complex_ = nn.Linear(2, 2, dtype=torch.complex64)
    refused(gs.Unsupported, lambda: gst.distribute(complex_), "complex64")
    refused(gs.InvalidArgument, lambda: gst.distribute(nn.Linear(2, 2, device="meta")), "meta")
    refused(gs.InvalidArgument, lambda: gst.distribute(optimizer, model), "no nn.Module", "SGD")
    refused(gs.InvalidArgument, lambda: gst.distribute(model, model), "MLP")
    refused(gs.InvalidArgument, lambda: gst.distribute(model, torch.optim.SGD), "the class SGD")
    refused(gs.InvalidArgument, lambda: gst.distribute(model, [optimizer]), "one optimizer")
    for steps in (10.5, 0, -1, "10"):
        refused(
            gs.InvalidArgument,
            lambda s=steps: gst.distribute(model, optimizer, total_steps=s),
            "total_steps",
            repr(steps),
        )
    refused(gs.InvalidArgument, lambda: gs.StrategySwitch(policy=gs.LossPlateau), "LossPlateau(")
    refused(gs.InvalidArgument, lambda: gst.stats(model), "distribute")
    refused(gs.InvalidArgument, lambda: gst.samples(-1))


@case([1])
def what_changes_after_distribute() -> None:
    model = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = gst.distribute(model, optimizer)
    refused(gs.InvalidArgument, lambda: gst.distribute(model, optimizer), "already", "gst.release")
    cross_entropy(model, *next(batches(1))).backward()
    before = copy.deepcopy(model.state_dict())
    for bad in (torch.ones(3), {"loss": 1.0}, "one"):
        refused(gs.InvalidArgument, lambda b=bad: optimizer.step(loss=b), "step(loss=...)")
    refused(gs.InvalidArgument, lambda: optimizer.step(torch.ones(())), "step(loss=loss)")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    refused(gs.Unsupported, lambda: optimizer.add_param_group({"params": []}), "before")
    other = make("mlp")
    refused(gs.Unsupported, lambda: gst.distribute(other, optimizer), "already")
    gst.release(model)
    model = make("mlp")
    model, optimizer = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1), "switch")
    model.float()
    x, y = next(batches(1, dtype=torch.float32))

    def step() -> None:
        cross_entropy(model, share(x), share(y)).backward()
        optimizer.step()

    refused(RuntimeError, step)


@case([1, 2])
def parameters_of_two_models() -> None:
    """Both would move them to memory of their own, and exchange their gradients."""
    both = nn.Linear(6, 6)
    actor, critic = nn.Sequential(both, nn.Linear(6, 3)), nn.Sequential(both, nn.Linear(6, 1))
    gst.distribute(actor, torch.optim.SGD(actor.parameters(), lr=0.1))
    its = torch.optim.SGD(critic.parameters(), lr=0.1)
    refused(gs.InvalidArgument, lambda: gst.distribute(critic, its), "'0.weight'", "nn.ModuleList")
    gst.release(actor)
    gst.distribute(critic, its)
    gst.release(critic)


@case([1, 2])
def parameters_tied_by_their_memory() -> None:
    model = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    model[1].weight.data = model[0].weight.data
    refused(gs.InvalidArgument, lambda: gst.distribute(model), "'0.weight' and '1.weight'", "one")
    model[1].weight = model[0].weight
    gst.distribute(model)
    gst.release(model)


@case([2])
def embeddings_that_forward_renormalises() -> None:
    """Each rank changed the rows that its own samples use."""
    for kind in (nn.Embedding, nn.EmbeddingBag):
        model = nn.Sequential(kind(9, 3, max_norm=1.5), nn.Linear(3, 3))
        its = torch.optim.SGD(model.parameters(), lr=0.1)
        refused(gs.Unsupported, lambda m=model, o=its: gst.distribute(m, o), "'0'", "(2, 0, 1.5)")
        model[0].weight.requires_grad_(False)
        gst.distribute(model, its)
        gst.release(model)


@case([2])
def buffers_that_become_others() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    model, _ = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model[1].register_buffer("running_mean", torch.zeros(5).double())
    model.eval()
    loss = nn.Module.__call__(model[0], next(batches(1))[0]).sum()
    refused(gs.InvalidArgument, loss.backward, "running_mean", "persistent=False", "(5,)")
    gst.release(model)


@case([1, 2])
def what_is_unfrozen_after_distribute() -> None:
    """It would drift apart under All-Reduce, and stay as it is under a server."""
    for strategy in ("all_reduce", "ps:bsp"):
        model = make("mlp")
        model[2].requires_grad_(False)
        model, its = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1), strategy)
        train(model, its, batches(2))
        model[2].bias.requires_grad_(True)
        advice = "gst.release(model) and gst.distribute() again"
        more = batches(1)
        refused(gs.InvalidArgument, lambda m=model, o=its, d=more: train(m, o, d), "2.bias", advice)
        gst.release(model)
    model = make("mlp")
    model[2].requires_grad_(False)
    model, _ = gst.distribute(model)
    cross_entropy(model, *map(share, next(batches(1)))).backward()
    model[2].requires_grad_(True)
    refused(gs.InvalidArgument, lambda: model(next(batches(1))[0]), "2.weight", "was frozen")
    gst.release(model)


@case([1])
def a_parameter_server_that_owns_less_than_the_model() -> None:
    """Parameters that are not the optimizer's get a gradient, and stay as they are."""
    for strategy in ("all_reduce", "ps:bsp"):
        model = make("mlp")
        last = [p.clone() for p in model[4].parameters()]
        its = torch.optim.Adam([*model[0].parameters(), *model[2].parameters()], lr=0.1)
        model, its = gst.distribute(model, its, strategy)
        train(model, its, batches(3))
        same = all(torch.equal(p, q) for p, q in zip(model[4].parameters(), last, strict=True))
        gradient = model[4].weight.grad
        gst.release(model)
        assert same
        assert gradient is not None


@case([1, 2])
def param_groups_that_servers_do_not_know() -> None:
    """Also before the switch to them; frozen parameters may go."""
    for strategy in ("ps:bsp", "switch(at=100)"):
        for change in ("moved", "removed", "added"):
            model = make("mlp")
            first, second, frozen, *rest = model.parameters()
            frozen.requires_grad_(False)
            groups = [{"params": [first, second, frozen]}, {"params": rest, "lr": 0.01}]
            optimizer = torch.optim.SGD(groups, lr=0.1)
            model, optimizer = gst.distribute(model, optimizer, strategy)
            one, two = (group["params"] for group in optimizer.param_groups)
            one.pop()
            train(model, optimizer, batches(1))
            if change == "added":
                two.append(nn.Parameter(torch.zeros(2)))
            else:
                taken = one.pop()
                two.extend([taken] if change == "moved" else [])
            refused(gs.Unsupported, optimizer.step, "gst.release")
            if change == "removed":  # what is left of its gradient would be applied
                taken.requires_grad_(False)
                refused(gs.Unsupported, optimizer.step, "gst.release")
                taken.grad = None
                train(model, optimizer, batches(1))
            gs.barrier()
            gst.release(model)


@case([2])
def models_that_differ() -> None:
    first = gs.rank() == 0
    for model, words in (
        (nn.Linear(3, 4 if first else 5), ("weight", "(4, 3)", "(5, 3)")),
        (nn.Linear(3, 4).to(torch.float64 if first else torch.float32), ("float",)),
        (nn.Linear(3, 4, bias=first), ()),
    ):
        refused(gs.MismatchError, lambda m=model: gst.distribute(m), *words)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if first else 0.2)
    refused(gs.MismatchError, lambda: gst.distribute(model, optimizer), "0.2")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = "all_reduce" if first else "ps:asp"
    refused(gs.MismatchError, lambda: gst.distribute(model, optimizer, strategy), "strategy")
    model, optimizer = gst.distribute(model, optimizer)  # the job is well
    gst.release(model)


@case([1])
def a_step_after_a_backward_that_failed() -> None:
    model = make("mlp")
    model, _ = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def fail(gradient: torch.Tensor) -> None:
        raise RuntimeError("a hook of the user's")

    handle = model[0].weight.register_hook(fail)
    x, y = next(batches(1))
    refused(RuntimeError, cross_entropy(model, x, y).backward, "a hook of the user's")
    handle.remove()
    refused(gs.Error, lambda: model(x), "half-way")
    with torch.no_grad():
        model(x)
