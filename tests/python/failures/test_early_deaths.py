"""Ranks that die before all have come to the rendezvous: the others end, and do not wait for them.

Without that, they would wait for ten timeouts, 300 s: longer than the tests' patience.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TOKEN = "e" * 64
CAME = "came to the rendezvous"
LAST_RANK_NEVER_COMES = 'if [ "${%s}" = 2 ]; then exec sleep 600; fi; exec "$@"'


@dataclass
class Program:
    """A process in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    @property
    def place(self) -> str:
        """Where the program says it is: "pid phase step"."""
        return "".join(path.read_text() for path in self.folder.glob("rank-?"))

    def pid_of(self, rank: int) -> int:
        return int((self.folder / f"rank-{rank}").read_text().split()[0])


@dataclass
class Starter:
    folder: Path
    trainer: Path
    env: dict[str, str]
    started: list[Program] = field(default_factory=list)

    def start(self, name: str, *before: str, **variables: str) -> Program:
        """`BEFORE toy_trainer`, with debug messages."""
        folder = self.folder / name
        folder.mkdir()
        with (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [*before, str(self.trainer), "--progress", str(folder)],
                cwd=folder,
                env=self.env | {"GEARSHIFT_LOG": "debug", "TMPDIR": str(self.folder)} | variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
        self.started.append(Program(folder, process))
        return self.started[-1]


@pytest.fixture
def programs(tmp_path, toy_trainer, clean_env) -> Iterator[Starter]:
    starter = Starter(tmp_path, toy_trainer, clean_env())
    yield starter
    for program in starter.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait()


def start_rank(
    programs: Starter, rank: int, world_size: int, rdzv: str, name: str = "", **more: str
) -> Program:
    return programs.start(
        name or f"process-{rank}",
        **more,
        GEARSHIFT_RANK=str(rank),
        GEARSHIFT_WORLD_SIZE=str(world_size),
        GEARSHIFT_RDZV=rdzv,
        GEARSHIFT_TOKEN=TOKEN,
    )


def job_of_four(programs: Starter, rdzv: str) -> list[Program]:
    """The first three ranks of four, without a launcher."""
    return [start_rank(programs, rank, 4, rdzv) for rank in range(3)]


@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_a_rank_that_is_there_twice(programs, until, tmp_path, free_port, kind):
    """Two hosts with one --node-rank: told at once, and not after ten timeouts."""
    rdzv = f"file://{tmp_path}/store" if kind == "file" else f"tcp://127.0.0.1:{free_port}"
    ranks = job_of_four(programs, rdzv)
    until(lambda: all(CAME in rank.err for rank in ranks), "three ranks come")
    twin = start_rank(programs, 1, 4, rdzv, "twin")
    until(lambda: twin.process.poll() is not None, "the twin ends")
    assert twin.process.returncode == 1, twin.err
    assert "rank 1 is taken: two processes were started with this rank" in twin.err
    last = start_rank(programs, 3, 4, rdzv)
    until(lambda: " all_reduce " in last.place, "the others train")


@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_two_world_sizes(programs, until, tmp_path, free_port, kind):
    """Hosts with different numbers of processes: all are told at once."""
    rdzv = f"file://{tmp_path}/store" if kind == "file" else f"tcp://127.0.0.1:{free_port}"
    ranks = job_of_four(programs, rdzv)
    until(lambda: all(CAME in rank.err for rank in ranks), "three ranks come")
    other = start_rank(programs, 4, 6, rdzv)
    for rank in (*ranks, other):
        until(lambda r=rank: r.process.poll() is not None, "all end")
    assert other.process.returncode == 1, other.err
    assert re.search(r"rank 4 was started with world size 6, rank [012] with 4", other.err)
    for rank in ranks:
        assert rank.process.returncode == 75, rank.err
        assert "rank 4 is lost before all have come" in rank.err
        assert "it was started with world size 6" in rank.err


@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_no_launcher(programs, until, tmp_path, free_port, kind):
    """All have come but the last rank, and rank 1 dies: the others name it."""
    rdzv = f"file://{tmp_path}/store" if kind == "file" else f"tcp://127.0.0.1:{free_port}"
    ranks = job_of_four(programs, rdzv)
    until(lambda: all(CAME in rank.err for rank in ranks), "three ranks come")
    ranks[1].process.kill()
    for rank in (ranks[0], ranks[2]):
        until(lambda r=rank: r.process.poll() is not None, "the others end")
        assert rank.process.returncode == 75, rank.err
        assert "peer_lost: rank 1 is lost before all have come" in rank.err
        assert rank.err.rstrip().endswith(": it died")


def test_a_survivor_that_is_late(programs, until, free_port):
    """The rank that serves the rendezvous stays until it knows, too."""
    ranks = job_of_four(programs, f"tcp://127.0.0.1:{free_port}")
    until(lambda: all(CAME in rank.err for rank in ranks), "three ranks come")
    ranks[2].process.send_signal(signal.SIGSTOP)
    ranks[1].process.kill()
    time.sleep(1.5)
    ranks[2].process.send_signal(signal.SIGCONT)
    for rank in (ranks[0], ranks[2]):
        until(lambda r=rank: r.process.poll() is not None, "the others end")
        assert rank.process.returncode == 75, rank.err
        assert "peer_lost: rank 1 is lost before all have come" in rank.err


def test_the_rank_that_serves_the_rendezvous(programs, until, free_port):
    ranks = job_of_four(programs, f"tcp://127.0.0.1:{free_port}")
    until(lambda: all(CAME in rank.err for rank in ranks), "three ranks come")
    ranks[0].process.kill()
    for rank in ranks[1:]:
        until(lambda r=rank: r.process.poll() is not None, "the others end")
        assert rank.process.returncode == 75, rank.err
        assert "peer_lost: lost the rendezvous store at tcp://127.0.0.1" in rank.err
        assert "rank 0, which serves it (unless `gearshift store` does), has ended" in rank.err


def test_a_port_that_another_program_has(programs, until, free_port):
    """Rank 0, which cannot serve the rendezvous there, is the one to blame. The others say whom
    they wait for, and that who answers there is no store, or is rank 0 that stands still."""
    third = start_rank(programs, 2, 3, f"tcp://127.0.0.1:{free_port}", GEARSHIFT_TIMEOUT="1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        rdzv = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        first = start_rank(programs, 0, 3, rdzv, GEARSHIFT_TIMEOUT="1")
        second = start_rank(programs, 1, 3, rdzv, GEARSHIFT_TIMEOUT="1")
        until(lambda: first.process.poll() is not None, "rank 0 ends")
        until(lambda: second.process.poll() is not None, "rank 1 ends")
    assert first.process.returncode == 1, first.err
    assert "rank 0 could not serve a store there itself" in first.err
    assert "in use" in first.err
    cause = rf"{rdzv}: rank 0 could not serve .* in use; no rendezvous store answers .*; end the"
    assert re.search(rf"warn session: {cause} program .*; trying for 1 s more\n", first.err)
    assert re.search(rf"io: {cause}", first.err), first.err
    assert second.process.returncode == 75, second.err
    cause = rf"{rdzv}: no rendezvous store answers .*; somebody takes connections there: another "
    assert re.search(rf"warn session: {cause}.* or rank 0 stands still; waiting on\n", second.err)
    assert re.search(rf"peer_lost: {cause}", second.err), second.err
    late = f"{free_port}: rank 0, which is to serve the rendezvous, has not come ("
    until(lambda: late in third.err, "rank 2 says whom it waits for")


@pytest.mark.parametrize("kind", ["file", "tcp"])
@pytest.mark.parametrize("code", [7, 0])
def test_gearshift_run(programs, until, free_port, code, kind):
    """The launcher tells the others of a rank that never came, whatever its exit code."""
    script = f'if [ "$GEARSHIFT_RANK" = 1 ]; then exit {code}; fi; exec "$@"'
    rdzv = ("--rdzv", f"127.0.0.1:{free_port}") if kind == "tcp" else ()
    launcher = (sys.executable, "-m", "gearshift.cli", "run", "-n", "3", *rdzv)
    job = programs.start("job", *launcher, "--", "sh", "-c", script, "sh")
    until(lambda: job.process.poll() is not None, "the launcher ends")
    assert job.process.returncode == (code or 75), job.err
    for rank in (0, 2):
        said = rf"\[{rank}\] .*rank 1 is lost before all have come .*: exit code {code}"
        assert re.search(said, job.err), job.err
    assert "ended by the launcher" not in job.err


def test_a_rank_0_that_serves_no_rendezvous(programs, until, free_port):
    """The launcher serves it instead, and the others do not wait out its grace period."""
    script = 'if [ "$GEARSHIFT_RANK" = 0 ]; then exit 7; fi; exec "$@"'
    command = (sys.executable, "-m", "gearshift.cli", "run", "-n", "3", "--grace", "600")
    rdzv = ("--rdzv", f"127.0.0.1:{free_port}")
    job = programs.start("job", *command, *rdzv, "--", "sh", "-c", script, "sh")
    until(lambda: job.process.poll() is not None, "the launcher ends")
    assert job.process.returncode == 7, job.err
    for rank in (1, 2):
        said = rf"\[{rank}\] .*rank 0 is lost before all have come .*: exit code 7"
        assert re.search(said, job.err), job.err


@pytest.mark.parametrize("code", [7, 0])
def test_gearshift_run_in_a_later_session(programs, until, tmp_path, code):
    """A job that was left and is joined again, but for one rank, which ends."""
    script = tmp_path / "train.py"
    script.write_text(f"""
import os, gearshift as gs
gs.init()
rank = gs.rank()
gs.shutdown()
if rank == 1:
    os._exit({code})
gs.init()
""")
    launcher = (sys.executable, "-m", "gearshift.cli", "run", "-n", "3", "--no-prefix")
    job = programs.start("job", *launcher, str(script))
    until(lambda: job.process.poll() is not None, "the launcher ends")
    assert job.process.returncode == (code or 75), job.err
    said = rf"rank 1 is lost before all have come .*session-2: exit code {code}"
    assert len(re.findall(f"PeerLost: {said}", job.err)) >= 2, job.err
    assert "ended by the launcher" not in job.err


def test_a_rank_that_stands_still_at_the_rendezvous(programs, until, tmp_path):
    """Before all have come, nobody notices it; in the end it is the culprit."""
    script = tmp_path / "train.py"
    script.write_text("""
import os, signal, gearshift as gs
if os.environ["GEARSHIFT_RANK"] == "1":
    os.kill(os.getpid(), signal.SIGSTOP)
gs.init()
""")
    launcher = (sys.executable, "-m", "gearshift.cli", "run", "-n", "3", "--timeout", "0.5")
    job = programs.start("job", *launcher, str(script))
    until(lambda: job.process.poll() is not None, "the launcher ends")
    assert job.process.returncode == 128 + signal.SIGKILL, job.err
    assert "rank 1 failed first: frozen" in job.err, job.err
    assert "ranks 0, 2 then exited with 75" in job.err, job.err


def test_a_pause_of_the_rank_that_serves_the_rendezvous(programs, until, free_port):
    """Shorter than the timeout, it ends nobody."""
    rdzv = f"tcp://127.0.0.1:{free_port}"
    ranks = job_of_four(programs, rdzv)
    until(lambda: all(CAME in rank.err for rank in ranks), "three ranks come")
    os.kill(ranks[0].process.pid, signal.SIGSTOP)
    time.sleep(7)
    assert [rank.process.poll() for rank in ranks] == [None] * 3, ranks[1].err
    os.kill(ranks[0].process.pid, signal.SIGCONT)
    last = start_rank(programs, 3, 4, rdzv)
    until(lambda: " all_reduce " in last.place, "all train")


MPIRUN = ("mpirun", "--oversubscribe", "-n", "3")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--no-python")


@pytest.mark.parametrize(
    ("launcher", "variable"),
    [
        pytest.param(
            MPIRUN,
            "OMPI_COMM_WORLD_RANK",
            marks=pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun here"),
            id="mpirun",
        ),
        pytest.param(TORCHRUN, "RANK", id="torchrun"),
    ],
)
def test_other_launchers(programs, until, launcher, variable):
    """Nothing hangs, whether the launcher ends the others or they end by themselves."""
    if launcher is TORCHRUN:
        pytest.importorskip("torch", reason="torchrun comes with torch")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    script = LAST_RANK_NEVER_COMES % variable
    job = programs.start("job", *launcher, "sh", "-c", script, "sh", **root)
    until(lambda: job.err.count(CAME) == 2, "two ranks come")
    others = [job.pid_of(0), job.pid_of(1)]
    os.kill(others[1], signal.SIGKILL)
    until(lambda: job.process.poll() is not None, "the launcher ends")
    assert job.process.returncode != 0, job.err
    until(lambda: not Path(f"/proc/{others[0]}").exists(), "the other rank ends")
