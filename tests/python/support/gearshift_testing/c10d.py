"""Jobs whose processes are ranks of torch.distributed over the gearshift backend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import gearshift.launch

from .network import Network
from .template import Fork, Place, template

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]
PATIENCE = 240.0
"""Seconds until a job is taken for hung: processes import torch, maybe on a busy machine."""

BEGIN = """
import os, signal, sys, time
from datetime import timedelta
from functools import partial
import torch, torch.distributed as dist
import gearshift as gs, gearshift.torch.c10d
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
init = partial(dist.init_process_group, "gearshift", init_method=os.environ["MEET"])
init = partial(init, rank=rank, world_size=world)
"""
INIT = BEGIN + "init()\n"


@dataclass
class Job:
    """The processes of one world, each with its output in a file."""

    folder: Path
    processes: list[subprocess.Popen[bytes] | Fork] = field(default_factory=list)

    def start(self, world: int, *script: str, **env: str) -> None:
        """Run `python SCRIPT` on each rank, as a fork of a process that has imported torch."""
        places = [
            Place(
                # A file to meet at needs no free port.
                self.environment(MEET=f"file://{self.folder}/store", **env)
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
                *(self.log(rank), self.log(rank)),
            )
            for rank in range(world)
        ]
        self.processes += template().start(script, places, self.folder)

    def launch(self, *arguments: str, network: Network | None = None, **env: str) -> None:
        """Run `gearshift run`, with a network once on each of its hosts."""
        for host in range(2 if network else 1):
            enter = [*network.enter(host)] if network else []
            at = ["--node-rank", str(host)] if network else []
            with self.log(host).open("wb") as log:
                process = subprocess.Popen(
                    [*enter, sys.executable, "-m", "gearshift", "run", *at, *arguments],
                    cwd=self.folder,
                    env=self.environment(PYTHONPATH=str(PACKAGE_ROOT), **env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    @staticmethod
    def environment(**env: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
        return {**kept, "OMP_NUM_THREADS": "1", **env}

    def log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}"

    def output(self, rank: int) -> str:
        log = self.log(rank)  # a fork makes it
        return log.read_text(errors="replace") if log.exists() else ""

    def await_text(self, text: str) -> None:
        """Until every rank has printed it."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in self.output(r) for r in range(len(self.processes))):
            assert time.monotonic() < deadline, self.all_output()
            time.sleep(0.05)

    def finish(self, *ranks: int) -> list[int]:
        """Wait for these, or all; their exit codes."""
        deadline = time.monotonic() + PATIENCE
        chosen = [self.processes[r] for r in ranks] or self.processes
        while any(process.poll() is None for process in chosen):
            assert time.monotonic() < deadline, f"the job hangs\n{self.all_output()}"
            time.sleep(0.05)
        return [process.returncode for process in chosen]

    def all_output(self) -> str:
        return "\n".join(f"rank {r}:\n{self.output(r)}" for r in range(len(self.processes)))

    def end(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL)
            process.wait()
