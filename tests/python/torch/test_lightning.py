"""Lightning's Trainer over gearshift (see lightning_cases.py), and its starts of processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gearshift_testing import check, grid

import gearshift.launch

CASES = Path(__file__).with_name("lightning_cases.py")
PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]

SCRIPT = """
import os, sys
import lightning.pytorch as pl, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from gearshift.torch.lightning import GearshiftStrategy

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def training_step(self, batch, index):
        if index == 0 and self.current_epoch == 2:
            print(f"at {self.global_rank} {os.getpid()}\\n", end="", flush=True)
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
strategy = GearshiftStrategy("ps:asp")
trainer = pl.Trainer(accelerator="cpu", strategy=strategy, max_epochs=EPOCHS, **OPTIONS, **quiet)
trainer.fit(Module(), DataLoader(TensorDataset(torch.ones(8, 4)), batch_size=2))
print(f"done {trainer.global_rank} of {trainer.world_size} after {trainer.global_step}\\n", end="")
"""


def start(folder: Path, launcher: list[str], epochs: int, options: str) -> subprocess.Popen[str]:
    script = SCRIPT.replace("EPOCHS", str(epochs)).replace("OPTIONS", options)
    (folder / "train.py").write_text(script)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    return subprocess.Popen(
        [sys.executable, *launcher, "train.py"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(PACKAGE_ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=(folder / "out").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_lightning(world: int, name: str) -> None:
    check(CASES, name, world)


def test_lightning_starts_the_processes(tmp_path: Path) -> None:
    """On its own, where no launcher has."""
    job = start(tmp_path, [], 3, "dict(devices=2)")
    assert job.wait(200) == 0, (tmp_path / "out").read_text()
    said = (tmp_path / "out").read_text()
    assert sorted(re.findall(r"done (\d) of 2 after 6", said)) == ["0", "1"], said


def test_rank_that_gets_sigterm_ends_the_job(tmp_path: Path) -> None:
    """The launcher says how many ranks there are; nobody waits for who has gone."""
    job = start(tmp_path, ["-m", "gearshift", "run", "-n", "2"], 10**6, "{}")
    try:
        deadline = time.monotonic() + 150
        found = None
        while found is None:
            assert time.monotonic() < deadline, (tmp_path / "out").read_text()
            time.sleep(0.05)
            found = re.search(r"at 1 (\d+)", (tmp_path / "out").read_text())
        os.kill(int(found[1]), signal.SIGTERM)
        assert job.wait(100) != 0
    finally:
        job.kill()
        job.wait()
    assert re.search(r"PeerLost: .*rank 1 ", (tmp_path / "out").read_text())
