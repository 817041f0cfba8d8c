"""torch.distributed over the gearshift backend: operations, trainings, and what breaks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gearshift_testing import run_script
from gearshift_testing.network import Network
from gearshift_testing.template import Fork, Place, template

import gearshift.launch

HERE = Path(__file__).parent
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
FOR_EVER = INIT + 'x = torch.ones(300_000)\nprint("running", flush=True)\n'
FOR_EVER += "while True:\n    dist.all_reduce(x, dist.ReduceOp.MAX)\n"


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
        return self.log(rank).read_text(errors="replace")

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


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.end()


def passes(job: Job, world: int, cases: str, **options: str) -> None:
    job.start(world, str(HERE / cases), **options)
    codes = job.finish()
    assert codes == [0] * world, job.all_output()
    for rank in range(world):
        assert re.search(r"^passed: \d+$", job.output(rank), re.M), job.all_output()


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3])
def test_operations(job: Job, world: int) -> None:
    passes(job, world, "c10d_cases.py")


@pytest.mark.slow
def test_messages_of_five(job: Job) -> None:
    passes(job, 5, "c10d_cases.py", ONLY="messages")


@pytest.mark.slow
def test_operations_over_tcp(job: Job) -> None:
    passes(job, 2, "c10d_cases.py", GEARSHIFT_TRANSPORTS="tcp")


@pytest.mark.slow
def test_trainings(job: Job) -> None:
    passes(job, 4, "c10d_training_cases.py")


ANYWHERE = """
import torch, torch.distributed as dist, gearshift.torch.c10d
import gearshift as gs
for method in ("gearshift://", None):
    dist.init_process_group("gearshift", init_method=method)
    x = torch.ones(5)
    dist.all_reduce(x)
    assert x[0] == dist.get_world_size() == WORLD, x
    dist.destroy_process_group()
gs.init()  # at the same rendezvous, afterwards
assert gs.all_reduce(torch.ones(1)).item() == WORLD
"""


def test_gearshift_run(job: Job) -> None:
    script = job.folder / "script.py"
    script.write_text(ANYWHERE.replace("WORLD", "2"))
    job.launch("-n", "2", str(script))
    assert job.finish() == [0], job.all_output()


def test_env_is_pytorchs_unless_another_launcher_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed import rendezvous

    from gearshift.torch.c10d import _rendezvous

    assert _rendezvous._by_torch()
    with pytest.raises(ValueError, match="RANK expected"):
        next(rendezvous("env://"))
    for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", "2" if "SIZE" in name else "0")
    assert not _rendezvous._by_torch()
    monkeypatch.setenv("RANK", "0")
    assert _rendezvous._by_torch()
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        next(rendezvous("env://"))


@pytest.mark.netns
@pytest.mark.slow
def test_gearshift_run_on_two_hosts(job: Job, network: Network) -> None:
    script = job.folder / "script.py"
    script.write_text(ANYWHERE.replace("WORLD", "4"))
    meet = ("--nnodes", "2", "--rdzv", f"{Network.address(0)}:29400", "-n", "2", str(script))
    token = {"GEARSHIFT_TOKEN": "secret of this very job"}
    job.launch(*meet, network=network, **token)
    assert job.finish() == [0, 0], job.all_output()


def test_a_job_with_servers_is_refused() -> None:
    worker, _ = run_script(ANYWHERE, 1, servers=1, forked=True)
    assert worker.returncode != 0
    assert "dedicated servers" in worker.stderr


DDP_FOR_EVER = f"""{INIT}
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3))
model(torch.ones(1, 4)).sum().backward()
print("running", flush=True)
while True:
    model(torch.ones(1, 4)).sum().backward()
"""


def test_backward_of_ddp_names_a_killed_rank(job: Job) -> None:
    job.start(2, "-c", DDP_FOR_EVER)
    job.await_text("running")
    job.processes[1].send_signal(signal.SIGKILL)
    assert job.finish(0) == [1], job.all_output()
    assert re.search(r"RuntimeError: .*PeerLost: .*rank 1", job.output(0)), job.all_output()


WITH_RECEIVES = f"""{INIT}
group = dist.new_group()
sources = [source for source in (None, 0, 1, 2) if source != rank]
works = [dist.irecv(torch.ones(1), source, group=group) for source in sources]
print("running", flush=True)
try:
    while True:
        dist.all_reduce(torch.ones(300_000), dist.ReduceOp.MAX)
finally:
    for work in works:
        try:
            work.wait()
        except gs.PeerLost as error:
            print("received:", error)
"""


def test_killed_rank_is_named(job: Job) -> None:
    """By who receives, too: from any source, from that rank, and from another one."""
    job.start(3, "-c", WITH_RECEIVES)
    job.await_text("running")
    job.processes[1].send_signal(signal.SIGKILL)
    codes = job.finish(0, 2)
    assert all(code != 0 for code in codes)
    for rank in (0, 2):
        assert re.search(r"PeerLost: .*rank 1", job.output(rank)), job.all_output()
        received = re.findall(r"received: .*rank 1 ", job.output(rank))
        assert len(received) == 3, job.all_output()


def test_frozen_rank_is_named_within_the_timeout_of_failure_detection(job: Job) -> None:
    job.start(3, "-c", FOR_EVER, GEARSHIFT_TIMEOUT="3")
    job.await_text("running")
    job.processes[2].send_signal(signal.SIGSTOP)
    job.finish(0, 1)
    for rank in (0, 1):
        assert re.search(r"(PeerLost|TimeoutError): .*rank 2", job.output(rank)), job.all_output()


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ('raise ValueError("no such file")', "ValueError: no such file"),
        ("sys.exit(3)", "sys.exit"),
    ],
)
def test_why_a_rank_ended_is_told_to_the_others(job: Job, end: str, told: str) -> None:
    """Where they wait for it, and where they form a group with it."""
    wait = "dist.barrier() if rank == 0 else dist.new_group()\n"
    job.start(3, "-c", f"{INIT}if rank == 1:\n    {end}\n{wait}")
    codes = job.finish()
    for rank in (0, 2):
        assert codes[rank] != 0
        assert re.search(f"PeerLost: .*rank 1 .*{re.escape(told)}", job.output(rank)), (
            job.all_output()
        )


KNOWN = """
def known():
    try:
        dist.group.WORLD._session.check()
    except gs.PeerLost:
        return True
    return dist.group.WORLD._session.has_left(1)
if rank != 1:
    while not known():
        time.sleep(0.01)
    dist.new_group([0, 1, 2] if rank == 0 else [1, 2])
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("sys.exit(3)", "reported aborted: sys.exit(3)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died"),
        ("dist.destroy_process_group()", "has left the job"),
    ],
)
def test_no_group_waits_for_a_rank_that_is_gone(job: Job, end: str, told: str) -> None:
    """Known to be so before."""
    job.start(3, "-c", f"{INIT}if rank == 1:\n    {end}\n{KNOWN}")
    codes = job.finish()
    for rank in (0, 2):
        assert codes[rank] != 0
        assert re.search(f"PeerLost: .*rank 1 {re.escape(told)}", job.output(rank)), (
            job.all_output()
        )


GIVEN_UP = f"""{INIT}
group = dist.new_group()
dist.barrier(group)
dist.barrier()
if rank == 1:
    group.abort()
else:
    try:
        dist.recv(torch.ones(1), 1, group=group)
    except gs.PeerLost as error:
        print(error)
another, total = dist.new_group(), torch.ones(1)
dist.all_reduce(total, group=another)
print("total:", total.item())
"""


def test_ranks_that_gave_up_one_group_form_another(job: Job) -> None:
    job.start(3, "-c", GIVEN_UP)
    assert job.finish() == [0, 0, 0], job.all_output()
    for rank in range(3):
        assert ("rank 1 reported aborted" in job.output(rank)) == (rank != 1), job.all_output()
        assert "total: 3.0" in job.output(rank), job.all_output()


IDLE = f"""{BEGIN}
init(timeout=timedelta(seconds=2))
if rank == 1:
    time.sleep(60)
works = [dist.irecv(torch.ones(1), src, tag=5) for src in (1, None)]
for work in works:
    try:
        work.wait()
    except gs.TimeoutError as error:
        print(error.rank, error)
dist.all_reduce(torch.ones(3))
"""


def test_rank_that_does_not_take_part_is_told_after_the_timeout_of_the_group(job: Job) -> None:
    job.start(2, "-c", IDLE, GEARSHIFT_TIMEOUT="4")
    assert job.finish(0) != [0]
    said = job.output(0)
    assert re.search(r"TimeoutError: .*rank 1", said), job.all_output()
    for rank, source in ((1, "rank 1"), (None, "any rank")):
        text = (
            rf"{rank} recv \(from {source}, tag 5\): no such message within 2 s\n.*\n.*\n  rank 1: "
        )
        assert re.search(text, said), said


def test_slow_rank_is_waited_for_beyond_the_timeout_of_failure_detection(job: Job) -> None:
    script = INIT + "time.sleep(3 * rank)\ndist.barrier()\nx = torch.ones(1)\n"
    script += "dist.all_reduce(x)\ntime.sleep(3 * rank)\ndist.destroy_process_group()\n"
    job.start(2, "-c", script, GEARSHIFT_TIMEOUT="2")
    assert job.finish() == [0, 0], job.all_output()


def test_interrupt_ends_a_waiting_rank(job: Job) -> None:
    script = INIT + 'print("running", flush=True)\n'
    script += "if rank == 0:\n    dist.barrier()\nelse:\n    time.sleep(600)\n"
    job.start(2, "-c", script)
    job.await_text("running")
    time.sleep(0.5)
    job.processes[0].send_signal(signal.SIGINT)
    job.finish(0)
    assert "KeyboardInterrupt" in job.output(0), job.all_output()


def test_ended_script_needs_no_goodbye(job: Job) -> None:
    """Under a token of the user's."""
    script = INIT + "dist.all_reduce(torch.ones(2))\n"
    job.start(2, "-c", script, GEARSHIFT_TOKEN="secret of this very job")
    assert job.finish() == [0, 0], job.all_output()


ENDING = f"""
import atexit, pathlib
def note(what):
    pathlib.Path(what).touch()
def await_(said):
    end = time.monotonic() + 100
    while not said():
        assert time.monotonic() < end
        time.sleep(0.01)
{BEGIN}
from gearshift.torch.c10d import _ending
if rank == 0:
    atexit.register(note, "left")  # called after all groups were left
_ending._ALONE_SECONDS = 0.2
init()
all_three, wanted = dist.group.WORLD, torch.ones(3)
alone = dist.new_group()
if rank == 0:
    works = [dist.all_reduce(wanted, group=g, async_op=True) for g in (alone, all_three)]
    there = "rank 2: step 0, all_reduce"
    await_(lambda: there in all_three._session.hang_report())
    note("ending")
    sys.exit(0)
if rank == 1:
    await_(pathlib.Path("ending").exists)
    time.sleep(1)
dist.all_reduce(wanted)
assert wanted.tolist() == [3.0] * 3
end = time.monotonic() + 15
while not pathlib.Path("left").exists() and time.monotonic() < end:
    time.sleep(0.01)
try:
    dist.all_reduce(wanted, group=alone)
except gs.PeerLost as error:
    print("told:", error)
"""


def test_ended_script_stays_for_what_others_are_in(job: Job) -> None:
    """But not for what nobody has come to."""
    job.start(3, "-c", ENDING)
    assert job.finish() == [0, 0, 0], job.all_output()
    for rank in (1, 2):
        told = re.search(r"told: .*rank 0 .*with operations under way", job.output(rank))
        assert told, job.all_output()


def test_missing_token_is_an_error(job: Job) -> None:
    script = BEGIN + 'if rank == 1:\n    del os.environ["GEARSHIFT_TOKEN"]\n'
    script += INIT.removeprefix(BEGIN)
    job.start(2, "-c", script, GEARSHIFT_TOKEN="secret of this very job")
    assert 0 not in job.finish()
    said = "rank 0 has a GEARSHIFT_TOKEN, this process has none"
    assert f"InvalidArgument: {said}" in job.output(1), job.all_output()
    told = f"PeerLost: rank 1 failed while the process group was formed: InvalidArgument: {said}"
    assert told in job.output(0), job.all_output()


@pytest.mark.parametrize("value", ["0", "soon"])
def test_timeout_that_is_none_is_an_error(job: Job, value: str) -> None:
    job.start(1, "-c", INIT, GEARSHIFT_TIMEOUT=value)
    assert job.finish() != [0]
    assert f"got '{value}'" in job.output(0), job.all_output()


CHILD = """
child = os.fork()
if child == 0:
    try:
        dist.barrier()
    except gs.Error as error:
        print(error, flush=True)
    dist.destroy_process_group()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
dist.barrier()
dist.destroy_process_group()
"""


def test_groups_of_a_forked_process_are_its_parents(job: Job) -> None:
    job.start(2, "-c", f"{INIT}dist.barrier()\n{CHILD}")
    assert job.finish() == [0, 0], job.all_output()
    assert "of the process that forked this one" in job.output(0), job.all_output()
