"""torch.distributed over the gearshift backend: operations, trainings, beginnings and endings."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gearshift_testing import run_script
from gearshift_testing.c10d import BEGIN, INIT, Job
from gearshift_testing.network import Network

HERE = Path(__file__).parent


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
import os
before = os.environ.get("RANK")
import torch, torch.distributed as dist, gearshift.torch.c10d
import gearshift as gs
assert os.environ.get("RANK") == before  # libraries would begin groups of their own
for method in ("gearshift://", None):
    dist.init_process_group("gearshift", init_method=method)
    x = torch.ones(5)
    dist.all_reduce(x)
    assert x[0] == dist.get_world_size() == WORLD, x
    assert os.environ["RANK"] == str(dist.get_rank()) and "MASTER_PORT" in os.environ
    assert dist.get_node_local_rank() == dist.get_rank() % 2
    dist.destroy_process_group()
gs.init()  # at the same rendezvous, afterwards
assert gs.all_reduce(torch.ones(1)).item() == WORLD
"""


def test_gearshift_run(job: Job) -> None:
    script = job.folder / "script.py"
    script.write_text(ANYWHERE.replace("WORLD", "2"))
    job.launch("-n", "2", str(script), RANK="7")  # of something above `gearshift run`
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


def test_interrupt_ends_a_waiting_rank(job: Job) -> None:
    script = INIT + 'print("running", flush=True)\n'
    script += "if rank == 0:\n    dist.barrier()\nelse:\n    time.sleep(600)\n"
    job.start(2, "-c", script)
    job.await_text("running")
    time.sleep(0.5)
    job.processes[0].send_signal(signal.SIGINT)
    job.finish(0)
    assert "KeyboardInterrupt" in job.output(0), job.all_output()


LEAVING = f"""{INIT}
import atexit
dist.barrier()
if rank == 0:
    atexit.register(print, "running", flush=True)  # called right before all groups are left
    dist.all_reduce(torch.ones(1), async_op=True)
else:
    print("running", flush=True)
    dist.recv(torch.ones(1), 0)
"""


def test_interrupt_ends_a_rank_that_is_leaving(job: Job) -> None:
    job.start(2, "-c", LEAVING)
    job.await_text("running")
    time.sleep(0.5)
    job.processes[0].send_signal(signal.SIGINT)
    assert job.finish() == [-signal.SIGINT, 1], job.all_output()
    told = "rank 0 reported aborted: interrupted (SIGINT)"
    assert told in job.output(1), job.all_output()


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
    for what in (dist.barrier, dist.new_group):
        try:
            what()
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
    assert job.output(0).count("of the process that forked this one") == 2, job.all_output()
