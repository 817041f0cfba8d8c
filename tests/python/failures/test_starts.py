"""How jobs start: under other launchers, with a rank missing, side by side, without disk space."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 30
ARGUMENTS = ("--strategy", "switch_bsp", "--steps", str(STEPS))
TORCHRUN = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])\n"


def result_of(text: str) -> list[float]:
    line = next(line for line in text.splitlines() if "result " in line)
    return [float(number) for number in line.partition("result ")[2].split()]


@pytest.fixture
def run(clean_env, tmp_path):
    """Runs a command to its end in a folder of its own, as a user without GEARSHIFT_ variables."""

    def start(*command, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=clean_env(variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return start


def test_alone(run, toy_trainer, expected_result):
    ended = run(toy_trainer, *ARGUMENTS)
    assert ended.returncode == 0, ended.stderr
    assert result_of(ended.stdout) == pytest.approx(expected_result(1, STEPS), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("strategy", ["all_reduce", "bsp", "switch_bsp"])
def test_gearshift_run(jobs, clean, expected_result, strategy):
    job = jobs.start("job", "--strategy", strategy, "--steps", str(STEPS), workers=3)
    assert job.finish() == 0, job.err
    assert job.result() == pytest.approx(expected_result(3, STEPS), rel=1e-9, abs=1e-12)
    clean(job)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
def test_mpirun(run, toy_trainer, expected_result):
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    ended = run("mpirun", *root, "--oversubscribe", "-n", 3, toy_trainer, *ARGUMENTS)
    assert ended.returncode == 0, ended.stderr
    assert result_of(ended.stdout) == pytest.approx(expected_result(3, STEPS), rel=1e-9, abs=1e-12)


def test_torchrun(run, toy_trainer, expected_result, tmp_path):
    pytest.importorskip("torch", reason="torchrun comes with torch")
    (tmp_path / "start.py").write_text(TORCHRUN)
    torchrun = (sys.executable, "-m", "torch.distributed.run")
    ended = run(*torchrun, "--nproc-per-node", 3, "start.py", toy_trainer, *ARGUMENTS)
    assert ended.returncode == 0, ended.stderr
    assert result_of(ended.stdout) == pytest.approx(expected_result(3, STEPS), rel=1e-9, abs=1e-12)


PROGRAM = """
import sys, time, numpy as np, gearshift as gs
gs.init()
print(sys.argv[1], gs.all_reduce(np.ones(1)), flush=True)
if gs.rank() == 0:
    time.sleep(2)  # the others come again, and find the rendezvous that it still serves
"""


@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_programs_one_after_the_other(run, tmp_path, free_port, kind):
    """In one launch: each is a session of its own, as where one program makes several."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = " && ".join(f"{sys.executable} program.py {name}" for name in ("one", "two", "three"))
    rdzv = ("--rdzv", f"127.0.0.1:{free_port}") if kind == "tcp" else ()
    command = (sys.executable, "-m", "gearshift.cli", "run", "-n", 2, "--no-prefix", *rdzv)
    ended = run(*command, "--", "sh", "-c", words)
    assert ended.returncode == 0, ended.stderr
    said = [f"{name} [2.]" for name in ("one", "two", "three") for _ in range(2)]
    assert sorted(ended.stdout.splitlines()) == sorted(said)


def test_missing_rank(run, toy_trainer, tmp_path):
    """Rank 1 of 2 never comes: rank 0 says so after a timeout, and ends after ten."""
    ended = run(
        *(toy_trainer, "--steps", 3),
        GEARSHIFT_RANK="0",
        GEARSHIFT_WORLD_SIZE="2",
        GEARSHIFT_RDZV=f"file://{tmp_path}/store",
        GEARSHIFT_TOKEN="c" * 64,
        GEARSHIFT_TIMEOUT="0.3",
    )
    assert ended.returncode == 75
    waiting = "waiting for rank 1 of 2 to come to the rendezvous; come so far: rank 0 ("
    assert f"warn session: {waiting}" in ended.stderr
    assert "after 3 s these of 2 processes have not come to the rendezvous" in ended.stderr
    assert ended.stderr.rstrip().endswith("rank 1")


def test_token_file_that_others_may_open(run, toy_trainer, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("c" * 64)
    secret.chmod(0o640)
    job = {"GEARSHIFT_RANK": "0", "GEARSHIFT_WORLD_SIZE": "2", "GEARSHIFT_TOKEN_FILE": str(secret)}
    ended = run(toy_trainer, "--steps", 3, **job)
    assert ended.returncode == 1
    assert f"run: chmod 600 {secret}" in ended.stderr


def test_congestion_control_that_does_not_exist(run, toy_trainer, tmp_path):
    """A C++ program and a Python one say what there is instead."""
    job = {
        "GEARSHIFT_RANK": "0",
        "GEARSHIFT_WORLD_SIZE": "2",
        "GEARSHIFT_RDZV": f"file://{tmp_path}/store",
        "GEARSHIFT_TOKEN": "c" * 64,
        "GEARSHIFT_TCP_CONGESTION": "pigeon",
    }
    (tmp_path / "start.py").write_text("import gearshift as gs\ngs.init()\n", encoding="utf-8")
    for program in ((toy_trainer, "--steps", 3), (sys.executable, "start.py")):
        ended = run(*program, **job)
        assert ended.returncode != 0
        assert re.search(r"'pigeon'; use auto, system, or one of: .*reno", ended.stderr)


def test_hang_report_of_servers(jobs, until):
    """Each dedicated server reports itself, and stands in others' reports with its progress."""
    job = jobs.start("job", "--strategy", "bsp", "--step-ms", "20", workers=2, servers=2, timeout=3)
    job.await_phase("server", step=60)
    job.process.send_signal(signal.SIGUSR1)
    for server, other in ((2, 3), (3, 2)):
        serving = rf"rank {server}: step [1-9]\d*, serving"
        itself = rf"rank {server} \(this rank\): step [1-9]\d*, serving"
        for rank in (0, other):
            until(lambda r=rank, s=serving: re.search(s, job.words_of(r)), f"report of rank {rank}")
        until(lambda r=server, s=itself: re.search(s, job.words_of(r)), "the server's own report")


def test_two_jobs_side_by_side(jobs, clean, expected_result):
    both = [jobs.start(name, "--steps", "100", "--step-ms", "5", workers=2) for name in ("a", "b")]
    for job in both:
        assert job.finish() == 0, job.err
        assert job.result() == pytest.approx(expected_result(2, 100), rel=1e-9, abs=1e-12)
        clean(job)


def test_hang_report(jobs, until):
    """SIGUSR1 to the launcher: every rank says where everybody is; the job goes on."""
    # Rank 1 stops in the pause at the begin of a step, so that the others come to wait for it in
    # the step's first all-reduce: until then their reports say something else.
    job = jobs.start("job", "--step-ms", "500", workers=3)
    job.await_phase("all_reduce", step=2)
    os.kill(job.pids[1], signal.SIGSTOP)
    lines = ("rank 0 (this rank): step", "rank 1: step", "rank 2: step", "all_reduce bucket")

    def reported() -> bool:
        job.process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        return all(line in job.words_of(0) for line in lines)

    until(reported, "the report of rank 0")
    os.kill(job.pids[1], signal.SIGCONT)
    until(lambda: "rank 1 (this rank): step" in job.words_of(1), "the report of rank 1")
    step = job.place(1).step
    until(lambda: job.place(1).step > step + 2, "the job goes on")


@pytest.fixture
def full_disk(tmp_path):
    """A file system without room for anything; needs root."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {made.stderr.strip()}")
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"\0" * 4096)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_room_for_the_rendezvous(run, toy_trainer, full_disk: Path):
    ended = run(
        *(toy_trainer, "--steps", 3),
        GEARSHIFT_RANK="0",
        GEARSHIFT_WORLD_SIZE="2",
        GEARSHIFT_RDZV=f"file://{full_disk}/store",
        GEARSHIFT_TOKEN="c" * 64,
    )
    assert ended.returncode == 1
    assert f"write in {full_disk}/store: No space left on device" in ended.stderr


def test_no_room_for_the_logs(run, toy_trainer, full_disk: Path):
    """The job is worth more than its log files: it goes on, and says what it could not write."""
    command = (sys.executable, "-m", "gearshift.cli", "run", "-n", 2)
    ended = run(*command, "--log-dir", full_disk / "logs", "--", toy_trainer, "--steps", 3)
    assert ended.returncode == 0, ended.stderr
    assert "rank-0.log: No space left on device; the job goes on" in ended.stderr
    assert result_of(ended.stdout)
