"""Children that a rank forks, a DataLoader's workers for example: they have no part in the job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gearshift_testing import run_script
from gearshift_testing.ports import reserved_port

from gearshift.launch import EXIT_PEER_LOST


@pytest.fixture
def address() -> Iterator[str]:
    with reserved_port() as port:
        yield f"tcp://127.0.0.1:{port}"


def test_a_forked_child_leaves_the_job_alone() -> None:
    script = """
import os, sys, numpy as np, gearshift as gs
gs.init()
child = os.fork()
if child == 0:
    assert not gs.is_initialized()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert gs.all_reduce(np.ones(1))[0] == 2
"""
    for process in run_script(script, 2):
        assert process.returncode == 0, process.stderr


def test_a_child_that_is_forked_in_another_thread_leaves_the_job_alone() -> None:
    script = """
import os, threading, numpy as np, gearshift as gs
def work():
    gs.init(timeout=10)
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert gs.all_reduce(np.ones(1))[0] == 2
    print("done", flush=True)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    for process in run_script(script, 2):
        assert (process.returncode, process.stdout) == (0, "done\n"), process.stderr


def test_a_forked_child_knows_its_place() -> None:
    script = """
import os, numpy as np, gearshift as gs
gs.init()
def refused(call):
    try:
        call()
    except gs.Error as error:
        return "forked" in str(error) and "DataLoader" in str(error)
child = os.fork()
if child == 0:
    right = (gs.rank(), gs.world_size(), gs.local_rank()) == (int(os.environ["GEARSHIFT_RANK"]),
        2, int(os.environ["GEARSHIFT_LOCAL_RANK"]))
    right = right and refused(gs.init) and refused(gs.barrier)
    os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0
assert gs.all_reduce(np.ones(1))[0] == 2
gs.shutdown()
child = os.fork()
if child == 0:
    try:
        gs.rank()
    except gs.Error as error:
        os._exit("gs.init()" not in str(error))
assert os.waitpid(child, 0)[1] == 0
"""
    for process in run_script(script, 2):
        assert process.returncode == 0, process.stderr


def test_a_child_that_was_forked_does_not_keep_the_rendezvous(address: str) -> None:
    """A DataLoader's persistent worker, say: it has what its parent had open."""
    script = """
import os, time, numpy as np, gearshift as gs
gs.init()
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)
gs.shutdown()
gs.init(timeout=10)
assert gs.all_reduce(np.ones(1))[0] == 2
"""
    for process in run_script(script, 2, extra={"GEARSHIFT_RDZV": address}):
        assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("transports", ["shm", "tcp"])
def test_a_death_is_noticed_though_a_forked_child_lives_on(transports: str) -> None:
    """A DataLoader's worker, say: it does not keep its parent's connections open."""
    script = """
import os, signal, time, numpy as np, gearshift as gs
gs.init()
first = int(gs.broadcast(np.array([os.getpid()]))[0])
if gs.rank() == 1:
    if os.fork() == 0:
        while os.path.exists(f"/proc/{first}"):
            time.sleep(0.05)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
gs.barrier()
"""
    extra = {"GEARSHIFT_TRANSPORTS": transports, "GEARSHIFT_TIMEOUT": "8"}
    first, _ = run_script(script, 2, extra=extra)
    assert first.returncode == EXIT_PEER_LOST
    assert "PeerLost: rank 1 died" in first.stderr, first.stderr
