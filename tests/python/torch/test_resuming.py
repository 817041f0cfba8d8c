"""Training goes on within an epoch (see resuming_cases.py), also when a job was killed."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import pytest
import torch
from gearshift_testing import check, grid, run_script
from gearshift_testing.epochs import data
from torch import Tensor, nn

CASES = Path(__file__).with_name("resuming_cases.py")
SAMPLES, BATCH, EPOCHS = 101, 4, 2
SAVED = 3
"""Steps until the checkpoint that the job goes on from."""

SCRIPT = """
import os, signal
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import gearshift as gs
import gearshift.torch as gst

gs.init()
path, killed = os.environ["CHECKPOINT"], int(os.environ["KILLED"])
dataset = TensorDataset(*torch.load(os.environ["DATA"]))
sampler = gst.DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=1)
torch.manual_seed(1)
model = nn.Linear(6, 3).double()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
model, optimizer = gst.distribute(model, optimizer, os.environ["STRATEGY"])
step = 0
if os.path.exists(path):
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    sampler.load_state_dict(saved["sampler"])
    step = saved["step"]
for epoch in range(sampler.epoch, 2):
    sampler.set_epoch(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        step += 1
        if step == 3 and gs.rank() == 0:
            things = {"model": model, "optimizer": optimizer, "sampler": sampler}
            states = {name: thing.state_dict() for name, thing in things.items()}
            torch.save({**states, "step": step}, path + ".part")
            os.replace(path + ".part", path)
        if step == killed and gs.rank() == gs.world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
gs.barrier()
if gs.rank() == 0:
    torch.save(model.state_dict(), os.environ["RESULT"])
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_resuming(world: int, name: str) -> None:
    check(CASES, name, world)


def run(folder: Path, world: int, strategy: str, killed: int = -1) -> Path:
    """One launch of the job. Returns where the model is."""
    result = folder / "model.pt"
    torch.save(data(SAMPLES).tensors, folder / "data.pt")
    extra = {
        "DATA": str(folder / "data.pt"),
        "CHECKPOINT": str(folder / "checkpoint.pt"),
        "RESULT": str(result),
        "KILLED": str(killed),
        "STRATEGY": strategy,
    }
    finished = run_script(SCRIPT, world, extra=extra, forked=True)
    codes = [process.returncode for process in finished]
    if killed >= 0:
        assert codes[-1] == -signal.SIGKILL
        assert all(code != 0 for code in codes)
        assert not result.exists()
    else:
        assert codes == [0] * world, finished[0].stderr[-2000:]
    return result


def alone(*parts: tuple[int, int | None]) -> dict[str, Tensor]:
    """One process: for each part of the first epoch how many workers, and how many steps."""
    dataset = data(SAMPLES)
    torch.manual_seed(1)
    model = nn.Linear(6, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def epoch(number: int, parts: tuple[tuple[int, int | None], ...]) -> None:
        generator = torch.Generator().manual_seed(number)
        rest = torch.randperm(SAMPLES, generator=generator)
        for workers, steps in parts:
            shares = [rest[rank::workers].split(BATCH) for rank in range(workers)]
            for batches in list(itertools.zip_longest(*shares))[:steps]:
                batch = torch.cat([b for b in batches if b is not None])
                x, y = dataset[batch]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            rest = rest[workers * BATCH * steps :] if steps else rest[:0]

    epoch(0, parts)
    for number in range(1, EPOCHS):
        epoch(number, parts[-1:])
    return model.state_dict()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("before", "after", "strategy"),
    [
        (3, 3, "all_reduce"),
        (3, 2, "all_reduce"),
        (2, 5, "ps:bsp"),
        (2, 1, "ps:bsp"),
    ],
)
def test_a_job_that_is_killed_goes_on_in_its_epoch(
    before: int, after: int, strategy: str, tmp_path: Path
) -> None:
    run(tmp_path, before, strategy, killed=5)
    found = torch.load(run(tmp_path, after, strategy), weights_only=True)
    wanted = alone((before, SAVED), (after, None))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
    if before == after:  # nor does it differ from one that nobody has killed
        whole = alone((before, None))
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
