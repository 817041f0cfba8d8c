"""Who started this process? With made-up environments, and under the real torchrun and mpirun."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from gearshift_testing.ports import reserved_port

import gearshift as gs
from gearshift.launch import LaunchError
from gearshift.launch.environment import detect, lonely_notice
from gearshift.launch.host_store import HostJob, open_host_store, user_token

TOKEN = "0123456789abcdef" * 4
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "job",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "4",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_NNODES": "4",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
VARIABLES = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
GEARSHIFT = {
    "GEARSHIFT_RANK": "2",
    "GEARSHIFT_WORLD_SIZE": "3",
    "GEARSHIFT_SERVERS": "1",
    "GEARSHIFT_LOCAL_RANK": "2",
    "GEARSHIFT_LOCAL_WORLD_SIZE": "3",
    "GEARSHIFT_RDZV": "file:///some/dir",
    "GEARSHIFT_TOKEN": TOKEN,
    "GEARSHIFT_TIMEOUT": "12.5",
}
HOSTS = {"GEARSHIFT_TOKEN": TOKEN, "GEARSHIFT_RDZV": "node0:29500"}


@pytest.fixture(autouse=True)
def private_base(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "gearshift"


def place(found):
    return (found.rank, found.world_size, found.local_rank, found.local_world_size)


def test_world_of_one():
    found = detect({})
    assert place(found) == (0, 1, 0, 1)
    assert (found.launcher, found.rdzv, found.token, found.timeout) == ("none", None, None, None)
    assert not found.is_server


def test_gearshift_run():
    found = detect({**GEARSHIFT, **TORCHRUN})
    assert place(found) == (2, 3, 2, 3)
    assert (found.launcher, found.rdzv, found.token) == ("gearshift", "file:///some/dir", TOKEN)
    assert (found.timeout, found.servers, found.is_server) == (12.5, 1, True)


def test_token_stays_out_of_logs():
    assert TOKEN not in repr(detect(GEARSHIFT))


@pytest.mark.parametrize(
    ("environ", "expected", "node", "launcher"),
    [
        (TORCHRUN, (3, 4, 1, 2), (1, 2), "torchrun"),
        (OPEN_MPI, (2, 4, 0, 2), (1, 2), "openmpi"),
        (MPICH, (2, 4, 0, 2), (1, 2), "pmi"),
        (SLURM, (4, 5, 0, 1), (2, 3), "slurm"),
        ({**SLURM, "PMI_RANK": "4", "PMI_SIZE": "5"}, (4, 5, 0, 1), (2, 3), "slurm"),
        ({**SLURM, **MPICH}, (2, 4, 0, 2), (1, 2), "pmi"),
        (VARIABLES, (2, 4, 0, 1), (2, 4), "env"),
        ({**VARIABLES, "LOCAL_WORLD_SIZE": "2"}, (2, 4, 0, 2), (1, 2), "env"),
    ],
)
def test_several_hosts(environ, expected, node, launcher):
    found = detect({**environ, **HOSTS})
    assert place(found) == expected
    assert (found.node_rank, found.nnodes) == node
    assert (found.launcher, found.rdzv, found.token) == (launcher, "tcp://node0:29500", TOKEN)
    assert not found.needs_torch_store
    with pytest.raises(LaunchError, match=r"GEARSHIFT_TOKEN=\$\(openssl rand -hex 32\)"):
        detect({**environ, "GEARSHIFT_RDZV": "node0:29500"})


@pytest.mark.parametrize("environ", [OPEN_MPI, MPICH, SLURM])
def test_several_hosts_need_an_address(environ):
    with pytest.raises(LaunchError, match="GEARSHIFT_RDZV=HOST:PORT"):
        detect({**environ, "GEARSHIFT_TOKEN": TOKEN})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("cpu1,gpu[07-09]", "cpu1"),
        ("rack[2-3]n[10-11]-ib", "rack2n10-ib"),
        ("[a,b", None),
        ("", None),
    ],
)
def test_tasks_of_slurm_meet_on_its_first_host(nodes, first):
    environ = {**SLURM, "GEARSHIFT_TOKEN": TOKEN, "SLURM_STEP_NODELIST": nodes}
    if first is None:
        with pytest.raises(LaunchError, match="GEARSHIFT_RDZV=HOST:PORT"):
            detect(environ)
        return
    assert detect(environ).rdzv == f"tcp://{first}:{20000 + 31 * 17}"
    next_step = {"SLURM_STEP_ID": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    assert detect({**environ, **next_step}).rdzv == f"tcp://{first}:{20001 + 31 * 17}"
    assert detect({**environ, "SLURM_JOB_ID": "4294967295"}).rdzv is not None
    assert detect({**environ, **HOSTS}).rdzv == "tcp://node0:29500"


def test_a_name_of_slurms_that_is_no_hosts(monkeypatch):
    for name, value in {**SLURM, "SLURM_STEP_NODELIST": "no.such.host.invalid"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GEARSHIFT_TOKEN", TOKEN)
    with pytest.raises(gs.InvalidArgument, match=r"'no.such.host.invalid'.*set GEARSHIFT_RDZV="):
        gs.init()


@pytest.mark.parametrize("step", ["4294967291", None])
def test_a_script_in_a_batch_job_without_srun_is_told_so(step):
    job = {name: v for name, v in SLURM.items() if name != "SLURM_STEP_ID"}
    shell = job if step is None else {**job, "SLURM_STEP_ID": step}
    assert "room for 8 tasks" in str(lonely_notice(shell))
    assert lonely_notice({**shell, "SLURM_NTASKS": "1"}) is None
    for other in (SLURM, {**shell, **TORCHRUN}, {**shell, "GEARSHIFT_RANK": "0"}, {}):
        assert lonely_notice(other) is None


def test_ranks_of_no_launcher_meet_at_the_master():
    found = detect({**VARIABLES, "GEARSHIFT_TOKEN": TOKEN})
    assert (found.rdzv, found.token) == ("tcp://node0:29500", TOKEN)
    six = detect({**VARIABLES, "GEARSHIFT_TOKEN": TOKEN, "MASTER_ADDR": "fd00::1"})
    assert six.rdzv == "tcp://[fd00::1]:29500"
    with pytest.raises(LaunchError, match=r"RANK=2 and WORLD_SIZE=4 .* GEARSHIFT_TOKEN"):
        detect(VARIABLES)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        with pytest.raises(LaunchError, match="set MASTER_ADDR and MASTER_PORT"):
            detect({**VARIABLES, "GEARSHIFT_TOKEN": TOKEN, name: ""})
    assert detect({"RANK": "0", "WORLD_SIZE": "1"}).world_size == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_ranks_of_no_launcher_on_one_host(host, private_base):
    first, other = (detect({**VARIABLES, "MASTER_ADDR": host, "RANK": r}) for r in ("0", "3"))
    assert (place(first), place(other)) == ((0, 4, 0, 4), (3, 4, 3, 4))
    assert first.token == other.token == (private_base / "token").read_text()
    assert first.rdzv == other.rdzv
    assert str(first.rdzv).endswith(":29500")


def test_several_hosts_under_torchrun_meet_in_its_store():
    found = detect({**TORCHRUN, "GEARSHIFT_TOKEN": TOKEN})
    assert found.needs_torch_store
    assert found.rdzv is None


def test_token_from_a_file(tmp_path):
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(TOKEN + "\n")
    environ = {**OPEN_MPI, "GEARSHIFT_RDZV": "node0:29500", "GEARSHIFT_TOKEN_FILE": str(path)}
    assert detect(environ).token == TOKEN


@pytest.mark.parametrize("step", ["4294967291", "4294967290", ""])
def test_shells_of_sbatch_and_salloc_are_worlds_of_one(step):
    found = detect({**SLURM, "SLURM_STEP_ID": step})
    assert (found.launcher, found.world_size) == ("none", 1)


def test_one_task_needs_no_peers():
    found = detect({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"})
    assert (found.world_size, found.rdzv, found.token) == (1, None, None)


def test_last_ranks_of_a_foreign_launcher_are_servers():
    found = detect({**TORCHRUN, **HOSTS, "GEARSHIFT_SERVERS": "1"})
    assert (found.servers, found.is_server) == (1, True)
    with pytest.raises(LaunchError, match="leaves no worker"):
        detect({**TORCHRUN, **HOSTS, "GEARSHIFT_SERVERS": "4"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"GEARSHIFT_WORLD_SIZE": ""}, "GEARSHIFT_WORLD_SIZE is not set"),
        ({"GEARSHIFT_RANK": "x"}, "GEARSHIFT_RANK='x'"),
        ({"GEARSHIFT_RANK": "3"}, "rank 3 does not fit a world of 3"),
        ({"GEARSHIFT_RDZV": ""}, "GEARSHIFT_RDZV must be set"),
        ({"GEARSHIFT_RDZV": "nowhere"}, "is not HOST:PORT"),
        ({"GEARSHIFT_RDZV": "file://relative"}, "absolute path"),
        ({"GEARSHIFT_TOKEN": ""}, "GEARSHIFT_TOKEN must be set"),
        ({"GEARSHIFT_TIMEOUT": "-1"}, "GEARSHIFT_TIMEOUT='-1'"),
    ],
)
def test_contradictions(change, words):
    with pytest.raises(LaunchError) as problem:
        detect({**GEARSHIFT, **change})
    assert words in str(problem.value)


def test_one_host_meets_in_a_private_directory(private_base):
    one_host = {**TORCHRUN, "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"}
    found, again = detect(one_host), detect(one_host)
    assert (found.rdzv, found.token) == (again.rdzv, again.token)
    restarted = detect({**one_host, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert restarted.rdzv != found.rdzv
    assert restarted.token != found.token
    directory = Path(str(found.rdzv).removeprefix("file://"))
    assert directory.parent == private_base
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    assert [path.name for path in directory.iterdir()] == ["token"]


def test_directories_of_dead_launchers_are_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    dead = tmp_path / f"job-{namespace}-{ended.pid}-123-{'0' * 16}"
    elsewhere = tmp_path / f"job-{namespace + 1}-{ended.pid}-123-{'0' * 16}"
    tmp_path.chmod(0o700)
    for path in (dead, elsewhere):
        path.mkdir()
        (path / "token").touch()
    store = open_host_store(HostJob("torchrun", ("RANK",), ()), tmp_path)
    assert not dead.exists()
    assert elsewhere.exists()
    assert store.directory.exists()


def test_a_directory_that_others_may_enter_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(LaunchError, match="chmod 700"):
        open_host_store(HostJob("torchrun", ("RANK",), ()), tmp_path)


def test_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "base").symlink_to(tmp_path)
    with pytest.raises(LaunchError, match="is not a directory of user"):
        open_host_store(HostJob("torchrun", ("RANK",), ()), tmp_path / "base")


def test_no_place_for_the_host_store():
    """As on a disk that is full, or may only be read."""
    nowhere = Path("/dev/null/gearshift")
    with pytest.raises(LaunchError, match=r"no place to meet: .*set XDG_RUNTIME_DIR"):
        open_host_store(HostJob("torchrun", ("RANK",), ()), nowhere)
    with pytest.raises(LaunchError, match="no place to meet"):
        user_token(nowhere)


DUMP = """
import dataclasses, json, sys
from gearshift.launch.environment import detect, lonely_notice
found = detect()
with open(f"{sys.argv[1]}/found-{found.rank}.json", "w") as file:
    json.dump(dataclasses.asdict(found), file)
"""


def check_found(folder: Path, launcher: str) -> None:
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["local_rank"] for one in found] == [0, 1]
    for one in found:
        assert (one["launcher"], one["world_size"], one["nnodes"]) == (launcher, 2, 1)
        assert one["rdzv"].startswith("file:///")
        assert len(one["token"]) == 64
    assert found[0]["token"] == found[1]["token"]
    assert found[0]["rdzv"] == found[1]["rdzv"]


SUM = """
import numpy as np, gearshift as gs
gs.init(timeout=30)
print(gs.all_reduce(np.array([gs.rank() + 1]))[0], gs.world_size(), flush=True)
"""


def test_a_job_of_no_launcher(clean_env):
    with reserved_port() as port:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", SUM],
                env=clean_env({**place, "RANK": str(rank)}),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        assert [rank.communicate(timeout=60)[0].split() for rank in ranks] == [["3", "2"]] * 2


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("own", [{}, {"RANK": "0", "WORLD_SIZE": "1"}], ids=["plain", "in_a_pod"])
def test_under_torchrun(tmp_path, clean_env, own):
    """`own`: what torchrun itself has, as in a pod of Kubernetes' PyTorchJob."""
    script = tmp_path / "dump.py"
    script.write_text(DUMP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, "--nproc-per-node=2", str(script), str(tmp_path)],
        env=clean_env(own),
        check=True,
        timeout=60,
    )
    check_found(tmp_path, "torchrun")


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="openmpi-bin is not installed")
@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$@"; exit $?', "sh"]])
def test_under_mpirun(tmp_path, clean_env, wrapper):
    script = tmp_path / "dump.py"
    script.write_text(DUMP)
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *wrapper]
    subprocess.run(
        [*command, sys.executable, str(script), str(tmp_path)],
        env=clean_env(),
        check=True,
        timeout=60,
    )
    check_found(tmp_path, "openmpi")
