"""torch.distributed over the gearshift backend: what breaks, and that nobody waits for it."""

from __future__ import annotations

import fcntl
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gearshift_testing.c10d import BEGIN, INIT, Job
from gearshift_testing.ports import reserved_port

import gearshift as gs

FOR_EVER = INIT + 'x = torch.ones(300_000)\nprint("running", flush=True)\n'
FOR_EVER += "while True:\n    dist.all_reduce(x, dist.ReduceOp.MAX)\n"


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.end()


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


PAIR = f"{INIT}dist.barrier()\npair = dist.new_group([1, 2])\n"
KNOWN = """
def known():
    try:
        dist.group.WORLD._session.check()
    except gs.PeerLost:
        return True
    return dist.group.WORLD._session.has_left(1)
def attempt(what):
    try:
        what()
        print("done")
    except gs.PeerLost as error:
        print("told:", error)
if rank != 1:
    while not known():
        time.sleep(0.01)
    attempt(lambda: dist.new_group([0, 1, 2] if rank == 0 else [1, 2]))
if rank == 2:
    attempt(lambda: dist.barrier(pair))
if rank == 0 or rank == 2 and LEFT:
    attempt(lambda: dist.new_group([0, 2]))
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("sys.exit(3)", "reported aborted: sys.exit(3)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died"),
        ("dist.group.WORLD.abort()\n    os._exit(0)", "reported aborted: the process group was"),
        ("dist.destroy_process_group()", "has left the job"),
    ],
)
def test_no_group_waits_for_a_rank_that_is_gone(job: Job, end: str, told: str) -> None:
    """Known to be so before. Nor for one whose end nobody may see, since the job has failed."""
    left = "left" in told
    script = f"{PAIR}if rank == 1:\n    {end}\n{KNOWN.replace('LEFT', str(left))}"
    job.start(3, "-c", script)
    assert job.finish(0, 2) == [0, 0], job.all_output()
    for rank in (0, 2):
        assert re.search(f"told: .*rank 1 {re.escape(told)}", job.output(rank)), job.all_output()
    for rank in (0, 2) if left else ():
        assert "done" in job.output(rank), job.all_output()
    if not left:
        last = job.output(0).rpartition("told: ")[2]
        assert re.match("no more groups are formed: rank 1 ", last), job.all_output()
    numbers = "ranks 0 to 1 of this process group are [1, 2] of the job"
    assert job.output(2).count(numbers) == 1, job.all_output()


LOCKED = f"""{INIT}
import fcntl, subprocess
store = open("store")
dist.barrier()
if rank == 1:
    fcntl.flock(store, fcntl.LOCK_EX)
    dist.barrier()
    subprocess.Popen(["sleep", "20"], pass_fds=[store.fileno()])
    os._exit(5)
dist.barrier()
dist.new_group([0, 2])
"""


def test_no_group_waits_for_a_store_that_does_not_answer(job: Job) -> None:
    """Because of a rank that is gone."""
    job.start(3, "-c", LOCKED)
    assert job.finish() == [1, 5, 1], job.all_output()
    for rank in (0, 2):
        assert re.search("PeerLost: .*rank 1 died", job.output(rank)), job.all_output()


def test_a_store_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    """Where no group tells of its ranks."""
    from torch.distributed import FileStore

    from gearshift.torch.c10d._answering import AnsweringStore
    from gearshift.torch.c10d._ending import Watch

    path = tmp_path / "store"
    store = AnsweringStore(FileStore(str(path), 2), Watch([0, 1], None), 1.0)
    store.set("key", "value")
    store.only_words_follow()  # a second
    with path.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with pytest.raises(gs.PeerLost, match="has not answered for 1 s"):
            store.get("key")
    assert store.get("key") == "value"
    store.close()


ALONE = f"""{BEGIN}
import threading
if rank == 0:
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGKILL]).start()
if rank != 1:
    init()
"""


def test_rank_0_that_dies_while_it_waits_for_others_is_named(job: Job) -> None:
    job.start(3, "-c", ALONE, GEARSHIFT_TIMEOUT="1")
    assert job.finish() == [-signal.SIGKILL, 0, 1], job.all_output()
    assert "PeerLost: rank 0 has been silent for 1." in job.output(2), job.all_output()


EARLY = f"""{BEGIN}
import gearshift.torch.c10d._meet as meeting
if rank == 1:
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if WHEN == "waiting":
        meeting._Arrival._await = die
    else:
        meeting._open = die
if rank != 2 or WHEN != "waiting":
    init()
"""


@pytest.mark.parametrize("when", ["waiting", "opening"])
def test_a_rank_that_dies_between_coming_and_the_rendezvous_is_named(job: Job, when: str) -> None:
    job.start(4, "-c", EARLY.replace("WHEN", repr(when)), GEARSHIFT_TIMEOUT="2")
    job.finish()
    for rank in (0, 3):
        said = r"PeerLost: rank 1 has been silent for \d+\.\d s while the process group was formed"
        assert re.search(said, job.output(rank)), job.all_output()


ABSENT = f"""{BEGIN}
import gearshift.torch.c10d._waiting as waiting
waiting._FIRST = 0.2
def await_words(words, teller):
    while words not in open("rank-%d" % teller).read():
        time.sleep(0.02)
if rank == 2:
    await_words("waits for rank 2 of 4", 0)
init()
try:
    if rank > 1:
        await_words("told:", 1)
    else:
        dist.new_group([1, 3, 2], timeout=timedelta(seconds=1))
except gs.TimeoutError as error:
    print("told:", error.rank, error)
"""


def test_who_has_not_come_to_a_group_is_told_and_named_in_the_end(job: Job) -> None:
    job.start(4, "-c", ABSENT)
    job.finish()
    begun = "gearshift: the process group waits for rank 2 of 4; come so far: ranks 0, 1, 3"
    assert begun in job.output(0), job.all_output()
    later = "gearshift: the process group waits for ranks 2, 3 of 3; come so far: rank 1"
    late = "after 1 s these of 3 processes have not come to the process group: ranks 2, 3"
    assert later in job.output(1), job.all_output()
    assert f"told: 1 {late}" in job.output(1), job.all_output()


AT_ENV = f"""{BEGIN}
import threading
import gearshift.torch.c10d._waiting as waiting
waiting._FIRST = 0.2
def interrupt():
    while "waiting for" not in open("rank-2").read():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)
if rank in ABSENT:
    os._exit(0)
if rank == 2:
    threading.Thread(target=interrupt).start()
dist.init_process_group("gearshift", timeout=timedelta(seconds=1 if rank == 1 else 600))
"""


def test_who_has_not_come_to_the_store_of_pytorch_is_told(job: Job) -> None:
    """Where it waits in C++, which Ctrl-C does not end, and rank 0 has not told who has come."""
    with reserved_port() as port:
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        job.start(3, "-c", AT_ENV.replace("ABSENT", "[0]"), **meet)
        job.finish()
        assert "rank 0, which serves that store, has not come" in job.output(1), job.all_output()
        told = f"gearshift: waiting for rank 0, whose store is to be at 127.0.0.1:{port} ("
        assert told in job.output(2), job.all_output()
        assert "KeyboardInterrupt" in job.output(2), job.all_output()

        job.processes.clear()
        job.start(4, "-c", AT_ENV.replace("ABSENT", "[2, 3]"), **meet)
        assert job.finish() == [1, 1, 0, 0], job.all_output()
        late = "TimeoutError: after 1 s these of 4 processes have not come to the process group: "
        for rank in (0, 1):
            assert f"{late}ranks 2, 3" in job.output(rank), job.all_output()


GIVEN_UP = f"""{INIT}
group = dist.new_group()
dist.barrier(group)
dist.barrier()
def receive():
    try:
        dist.recv(torch.ones(1), 1, group=group)
    except gs.PeerLost as error:
        print(error)
if rank == 0:
    receive()
if rank == 1:
    time.sleep(0.1)
    group.abort()
    time.sleep(0.4)
another, total = dist.new_group(), torch.ones(1)
if rank == 2:
    receive()
dist.all_reduce(total, group=another)
print("total:", total.item())
"""


def test_ranks_that_gave_up_one_group_form_another(job: Job) -> None:
    """Also those that learn of it while they wait."""
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
