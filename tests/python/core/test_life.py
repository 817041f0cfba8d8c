"""A process's way into a job and out of it: orderly, by an exception, by a signal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gearshift_testing import run_script
from gearshift_testing.jobs import Job
from gearshift_testing.ports import reserved_port

from gearshift import _session
from gearshift.launch import EXIT_PEER_LOST

PATIENCE = 90.0
"""On a busy machine; what is asserted about time is asserted tighter."""

WAIT = """
import numpy as np, gearshift as gs
gs.init()
print("here", flush=True)
gs.recv(np.zeros(3), 1 - gs.rank())
"""


def eventually(condition: Callable[[], object]) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + PATIENCE, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - started


def alone(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture
def address() -> Iterator[str]:
    with reserved_port() as port:
        yield f"tcp://127.0.0.1:{port}"


def waiting(job: Job) -> None:
    """Until both are in the core, as they say themselves."""
    eventually(lambda: all("here" in job.output(r, "out") for r in range(2)))
    eventually(lambda: "rank 0 (this rank): step 0, recv" in report(job, 0))
    eventually(lambda: "rank 1 (this rank): step 0, recv" in report(job, 1))


def report(job: Job, rank: int) -> str:
    """What a process writes when it is asked what it is doing."""
    before = len(job.output(rank))
    job.processes[rank].send_signal(signal.SIGUSR1)
    eventually(lambda: re.search(r"rank 1.*\n", job.output(rank)[before:]))
    return job.output(rank)[before:]


def test_an_interrupt_ends_a_blocking_call() -> None:
    with Job(["-c", WAIT], 2) as job:
        waiting(job)
        job.processes[0].send_signal(signal.SIGINT)
        seconds = eventually(lambda: all(p.poll() is not None for p in job.processes))
        first, second = job.wait(PATIENCE)
    assert first.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in first.stderr
    assert second.returncode == EXIT_PEER_LOST
    assert "gearshift.errors.PeerLost" in second.stderr
    assert "interrupted" in second.stderr
    assert seconds < 10


def test_an_interrupt_while_a_process_leaves() -> None:
    """It waits there for the other's steps; its script is over, its part of the job is not."""
    script = """
import time, torch, gearshift as gs, gearshift.torch as gst
gs.init()
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = gst.distribute(model, optimizer, "ps:asp")
print("here", flush=True)
if gs.rank() == 1:
    time.sleep(600)
"""
    with Job(["-c", script], 2) as job:
        eventually(lambda: all("here" in job.output(r, "out") for r in range(2)))
        eventually(lambda: "end of parameter servers" in report(job, 0))
        job.processes[0].send_signal(signal.SIGINT)
        eventually(lambda: job.processes[0].poll() is not None)
        job.processes[1].kill()
        first, _ = job.wait(PATIENCE)
    assert first.returncode == -signal.SIGINT
    assert "gearshift: interrupted while leaving the job" in first.stderr
    assert "Traceback" not in first.stderr


@pytest.mark.parametrize("rendezvous", ["file", "tcp", "nobody's"])
def test_an_interrupt_ends_the_wait_for_the_others(rendezvous: str, address: str) -> None:
    """Of a process that came first, whether it serves the rendezvous or waits for who does."""
    script = "import gearshift as gs; print('here', flush=True); gs.init()"
    extra = {"GEARSHIFT_WORLD_SIZE": "2", "GEARSHIFT_RANK": str(int(rendezvous == "nobody's"))}
    if rendezvous != "file":
        extra["GEARSHIFT_RDZV"] = address
    with Job(["-c", script], 1, extra=extra) as job:
        eventually(lambda: "here" in job.output(0, "out"))
        time.sleep(0.3)  # into the core
        job.processes[0].send_signal(signal.SIGINT)
        (process,) = job.wait(PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in process.stderr


def test_a_hang_report_on_sigusr1() -> None:
    with Job(["-c", WAIT], 2) as job:
        waiting(job)
        assert "rank 1: " in report(job, 0)
        assert all(p.poll() is None for p in job.processes)


def test_signal_handlers_of_the_program_are_kept() -> None:
    script = """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: print("mine", flush=True))
import gearshift as gs
gs.init()
os.kill(os.getpid(), signal.SIGUSR1)
gs.barrier()
signal.signal(signal.SIGINT, lambda *_: print("graceful", flush=True))
os.kill(os.getpid(), signal.SIGINT)
gs.barrier()
gs.shutdown()
assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
"""
    for process in run_script(script, 2):
        assert process.returncode == 0, process.stderr
        assert process.stdout.split() == ["mine", "graceful"]
        assert process.stderr == ""


def test_an_exception_tells_the_others_at_once() -> None:
    script = """
import time, numpy as np, gearshift as gs
gs.init()
gs.barrier()
if gs.rank() == 1:
    raise ValueError("boom")
began = time.monotonic()
try:
    gs.all_reduce(np.ones(3))
except gs.PeerLost as error:
    assert error.rank == 1, error.rank
    assert time.monotonic() - began < 10
    raise
"""
    first, culprit, third = run_script(script, 3)
    assert culprit.returncode == 1
    assert "ValueError: boom" in culprit.stderr
    for process in (first, third):
        assert process.returncode == EXIT_PEER_LOST, process.stderr
        assert "rank 1" in process.stderr
        assert "ValueError: boom" in process.stderr


@pytest.mark.parametrize("call", ["sys.exit(2)", "sys.exit('no data')", "exit(2)"])
def test_an_exit_code_tells_the_others_at_once(call: str) -> None:
    script = f"""
import sys, numpy as np, gearshift as gs
gs.init()
gs.barrier()
def stop():
    try:
        {call}
    finally:
        print("leaving", flush=True)
if gs.rank() == 1:
    stop()
gs.recv(np.zeros(3), 1)
"""
    first, culprit = run_script(script, 2)
    assert culprit.returncode == (1 if "no data" in call else 2), culprit.stderr
    assert culprit.stdout.strip() == "leaving"
    assert first.returncode == EXIT_PEER_LOST, first.stderr
    assert "rank 1" in first.stderr
    assert call.removeprefix("sys.") in first.stderr


def test_an_exit_that_is_caught_or_of_code_0_is_orderly() -> None:
    script = """
import sys, threading, time, numpy as np, gearshift as gs
gs.init()
try:
    sys.exit(3)
except SystemExit as exit_:
    assert exit_.code == 3
thread = threading.Thread(target=sys.exit, args=(4,))
thread.start()
thread.join()
assert gs.all_reduce(np.ones(1))[0] == 2
if gs.rank() == 1:
    sys.exit(0)
time.sleep(0.3)
sys.exit()
"""
    for process in run_script(script, 2):
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""


def test_who_waits_in_vain_is_no_culprit() -> None:
    """A rank that another one keeps waiting ends as if it had lost that one."""
    script = """
import time, numpy as np, gearshift as gs
gs.init(timeout=4)
if gs.rank() == 0:
    gs.all_reduce(np.ones(3))
time.sleep(60)
"""
    with Job(["-c", script], 2) as job:
        eventually(lambda: job.processes[0].poll() is not None)
        assert job.processes[0].poll() == EXIT_PEER_LOST
        assert "gearshift.errors.TimeoutError" in job.output(0)


def test_ranks_may_end_at_different_times() -> None:
    script = """
import time, numpy as np, gearshift as gs
gs.init()
assert gs.all_reduce(np.ones(1))[0] == 3
time.sleep(0.5 * gs.rank())
"""
    for process in run_script(script, 3):
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""


def test_a_dedicated_server_serves_in_init() -> None:
    script = """
import gearshift as gs
gs.init()
print(f"worker {gs.rank()} of {gs.world_size()}", flush=True)
"""
    *workers, server = run_script(script, 2, servers=1)
    assert [w.stdout.strip() for w in workers] == ["worker 0 of 2", "worker 1 of 2"]
    assert server.stdout == ""
    assert [p.returncode for p in (*workers, server)] == [0, 0, 0], server.stderr


def test_an_exception_about_a_file_whose_name_is_no_text_is_told_too() -> None:
    script = r"""
import numpy as np, gearshift as gs
gs.init()
if gs.rank() == 1:
    raise FileNotFoundError("no such file: caf\udce9")
gs.all_reduce(np.ones(3))
"""
    first, culprit = run_script(script, 2)
    assert (first.returncode, culprit.returncode) == (EXIT_PEER_LOST, 1)
    assert r"FileNotFoundError: no such file: caf\udce9" in first.stderr
    assert "TypeError" not in culprit.stderr


def test_a_thread_in_the_core_does_not_end_a_process_that_ends() -> None:
    finished = alone("""
import threading, time, gearshift as gs
from gearshift import _session
gs.init()
class Last:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)  # while the interpreter ends
last = Last()
def forever(call):
    while True:
        call()
threading.Thread(target=forever, args=(_session.current().barrier,), daemon=True).start()
""")
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("rendezvous", ["file", "tcp"])
def test_a_job_may_be_left_and_joined_again(rendezvous: str, address: str, tmp_path: Path) -> None:
    """The others come back while rank 0 is in the last session still; nothing is left behind."""
    script = """
import os, sys, time, numpy as np, gearshift as gs
def runs(task):
    # Threads that have been joined are listed until the kernel is done with them.
    try:
        with open(f"/proc/self/task/{task}/stat") as file:
            return not int(file.read().rpartition(")")[2].split()[6]) & 4  # PF_EXITING
    except (FileNotFoundError, ProcessLookupError):
        return False
def held():
    return len(os.listdir("/proc/self/fd")), sum(map(runs, os.listdir("/proc/self/task")))
after = []
for i in range(5):
    gs.init()
    assert gs.all_reduce(np.ones(1))[0] == 3
    shared = gs.zeros(100_000)
    shared[:] = gs.rank()
    assert gs.all_reduce(shared, "max")[-1] == 2
    del shared
    gs.barrier()
    gone = [os.path.join(sys.argv[1], f"{i}-{r}") for r in (1, 2)]
    if gs.rank() > 0:
        open(gone[gs.rank() - 1], "w").close()
    while gs.rank() == 0 and not all(map(os.path.exists, gone)):
        time.sleep(0.01)
    gs.shutdown()
    after.append(held())
assert after[1:] == after[1:2] * 4, after
"""
    extra = {"GEARSHIFT_RDZV": address} if rendezvous == "tcp" else {}
    with Job(["-c", script, str(tmp_path)], 3, extra=extra) as job:
        for process in job.wait(PATIENCE):
            assert process.returncode == 0, process.stderr


def test_a_job_whose_servers_have_ended_is_not_joined_again() -> None:
    script = """
import gearshift as gs
gs.init()
gs.shutdown()
try:
    gs.init()
except gs.Unsupported as error:
    assert "servers" in str(error)
else:
    raise AssertionError
"""
    for process in run_script(script, 2, servers=1):
        assert process.returncode == 0, process.stderr


def test_alone_a_script_is_a_world_of_one() -> None:
    script = """
import numpy as np, gearshift as gs
assert not gs.is_initialized()
try:
    gs.rank()
except gs.Error as error:
    assert "gs.init()" in str(error)
else:
    raise AssertionError
gs.init()
gs.init()
assert (gs.rank(), gs.world_size(), gs.local_rank()) == (0, 1, 0)
x = np.arange(4)
assert gs.all_reduce(x, "mean").tolist() == [0, 1, 2, 3]
assert gs.reduce_scatter(x).tolist() == gs.all_to_all(x).tolist() == [0, 1, 2, 3]
gs.barrier()
gs.shutdown()
gs.shutdown()
assert not gs.is_initialized()
gs.init()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_transports_may_be_named_in_a_string() -> None:
    assert _session._transports("tcp, shm") == ["tcp", "shm"]
    assert _session._transports(["tcp"]) == ["tcp"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("gs.init(colour=3)", "colour"),
        ("gs.init(timeout=0)", "timeout"),
        ("gs.init(timeout='30s')", "timeout must be a positive number of seconds, got '30s'"),
        ("gs.init(rank=2, world_size=2)", "rank 2"),
        ("gs.init(world_size=2, rank=0, token='')", "rendezvous"),
        ("gs.init(world_size=2, rank=0, token='', rdzv='file:///tmp')", "token"),
        (r"gs.init(world_size=2, rank=0, token='t', rdzv='file:///\udce9')", "no text in UTF-8"),
    ],
)
def test_bad_options_are_refused(call: str, words: str) -> None:
    script = (
        f"import gearshift as gs\ntry:\n    {call}\nexcept gs.InvalidArgument as e:\n    print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert words in done.stdout, done.stderr


def test_the_launcher_needs_no_core() -> None:
    """`import gearshift` alone loads neither the compiled core nor NumPy nor torch."""
    script = "import sys, gearshift; print([m for m in sys.modules if m in " + (
        "('gearshift._core', 'numpy', 'torch')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
