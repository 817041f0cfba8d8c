"""A distributed model saved, loaded, copied, and let go."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import subprocess
import sys
import tempfile

import torch
import torch.utils.checkpoint
from gearshift_testing import case
from gearshift_testing.training import (
    batches,
    cross_entropy,
    difference,
    make,
    reference,
    train,
)

import gearshift as gs
import gearshift.torch as gst

STEPS = 20
WORLDS = (1, 2)


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def both() -> list[gs.strategy.Strategy]:
    return [gs.AllReduce(bucket_mb=2**-10), gs.ParameterServer(bucket_mb=2**-10)]


@case(WORLDS)
def checkpoints_are_those_of_one_process() -> None:
    """state_dict of model and optimizer, in the middle, under every strategy; and resuming."""
    alone = make("mlp")
    other = adam(alone.parameters())
    train(alone, other, batches(10), alone=True)
    plain = {"model": alone.state_dict(), "optimizer": other.state_dict()}
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        train(model, its, batches(10))
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": its.state_dict()}, file)
        saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        assert saved["model"].keys() == plain["model"].keys()
        assert saved["optimizer"]["param_groups"] == plain["optimizer"]["param_groups"]
        states = saved["optimizer"]["state"]
        assert states.keys() == plain["optimizer"]["state"].keys()
        for index, state in plain["optimizer"]["state"].items():
            for name, value in state.items():
                got = states[index][name]
                assert got.dtype == value.dtype
                torch.testing.assert_close(got, value, rtol=1e-10, atol=1e-14)
        train(model, its, batches(5))  # goes astray, and comes back:
        model.load_state_dict(saved["model"])
        its.load_state_dict(saved["optimizer"])
        gs.barrier()
        train(model, its, batches(10))
        again = copy.deepcopy(alone)
        its_again = adam(again.parameters())
        its_again.load_state_dict(copy.deepcopy(plain["optimizer"]))
        train(again, its_again, batches(10), alone=True)
        found = difference(model, again)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


@case([2])
def optimizer_state_from_before_counts() -> None:
    alone = make("mlp")
    other = adam(alone.parameters())
    train(alone, other, batches(5), alone=True)
    for strategy in both():
        model = copy.deepcopy(alone)
        its = adam(model.parameters())
        if gs.rank() == 0:  # the others get it
            its.load_state_dict(copy.deepcopy(other.state_dict()))
        model, its = gst.distribute(model, its, strategy)
        train(model, its, batches(5))
        again = copy.deepcopy(alone)
        its_again = adam(again.parameters())
        its_again.load_state_dict(copy.deepcopy(other.state_dict()))
        train(again, its_again, batches(5), alone=True)
        found = difference(model, again)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


@case(WORLDS)
def copies_are_models_of_their_own() -> None:
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()))
    keys = list(make("mlp").state_dict())
    train(model, its, batches(2))
    assert list(model.state_dict()) == keys
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model, file)
    assert b"gearshift.torch" not in file.getvalue()
    stored = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    for other in (copied, pickled, stored):
        assert difference(other, model) == 0
        if gs.rank() == 0:  # no collective in it
            cross_entropy(other, torch.zeros(2, 6).double(), torch.tensor([0, 1])).backward()
    plain = pickle.loads(pickle.dumps(its))
    assert type(plain) is torch.optim.Adam
    assert type(copy.deepcopy(its)) is torch.optim.Adam
    assert isinstance(its, torch.optim.Adam)
    assert type(its).__name__ == "Adam"
    train(model, its, batches(2))
    gst.release(model)
    assert type(its).__name__ == "Adam"


@case([1])
def another_optimizer_of_its_type_is_the_users() -> None:
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()), "ps:bsp")
    other = make("mlp")
    for _ in ("while it takes part", "when it does no more"):
        another = type(its)(other.parameters(), lr=3e-3, betas=(0.5, 0.9))
        assert type(another) is torch.optim.Adam
        assert another.defaults["betas"] == (0.5, 0.9)
        train(other, another, batches(1), alone=True)
        gst.release(model)
    assert inspect.signature(type(its)) == inspect.signature(torch.optim.Adam)


@case(WORLDS)
def copies_of_an_optimizer_have_the_servers_state() -> None:
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()), "ps:bsp")
    train(model, its, batches(3))
    wanted = its.state_dict()["state"]
    gs.barrier()
    _, copied = copy.deepcopy((model, its))
    _, pickled = pickle.loads(pickle.dumps((model, its)))
    train(model, its, batches(1))
    gst.release(model)
    for other in (copied, pickled):
        found = other.state_dict()["state"]
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[i]["exp_avg"], wanted[i]["exp_avg"]) for i in wanted)


@case(WORLDS)
def released_models_go_on_alone() -> None:
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        train(model, its, batches(5))
        gst.release(model)
        if gs.rank() == 0:
            train(model, its, batches(5), alone=True)
            again = reference(
                make("mlp"),
                adam,
                lambda m, o: [train(m, o, batches(5), alone=True) for _ in range(2)],
            )
            assert difference(model, again) <= 1e-12
        gs.barrier()


@case([2])
def loops_of_released_models() -> None:
    """What a loop says of a model has no effect any more, and is no error."""
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        with gst.join(model):
            train(model, its, batches(2))
            gst.release(model)
        if gs.rank() == 0:
            with gst.join(model), gst.no_sync(model):
                train(model, its, batches(3), alone=True)
            gst.clip_grad_norm_(model, 1.0)
            assert gst.stats(model)["step"] == 2
            again = reference(
                make("mlp"),
                adam,
                lambda m, o: [train(m, o, batches(n), alone=True) for n in (2, 3)],
            )
            assert difference(model, again) <= 1e-12
        gs.barrier()


@case([2])
def safetensors_load_without_gearshift() -> None:
    from safetensors.torch import save_file

    model = make("mlp", torch.float32)
    model, its = gst.distribute(model, adam(model.parameters()), "parameter_server")
    train(model, its, batches(3, dtype=torch.float32))
    script = """
import sys
sys.modules["gearshift"] = None
import torch
from safetensors.torch import load_file
tensors, saved = load_file(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
assert set(tensors) == set(saved["model"]) and len(tensors) == 6
assert all(torch.equal(tensors[k], saved["model"][k]) for k in tensors)
layers = [torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 3))
model.load_state_dict(tensors)
torch.optim.Adam(model.parameters()).load_state_dict(saved["optimizer"])
"""
    state = {"model": model.state_dict(), "optimizer": its.state_dict()}
    gs.barrier()
    gst.release(model)
    returncode = 0
    if gs.rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            save_file(model.state_dict(), f"{folder}/weights.safetensors")
            torch.save(state, f"{folder}/state.pt")
            files = [f"{folder}/weights.safetensors", f"{folder}/state.pt"]
            done = subprocess.run([sys.executable, "-c", script, *files], check=False)
        returncode = done.returncode
    gs.barrier()
    assert returncode == 0
