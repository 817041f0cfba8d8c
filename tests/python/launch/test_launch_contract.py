"""What `gearshift run` gives its processes, and what it refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gearshift.cli import main
from gearshift.launch.plan import LaunchOptions, validate_numbers

DUMP = """
import json
shown = {k: v for k, v in os.environ.items() if k.startswith(("GEARSHIFT_", "OMP_", "MARK"))}
shown["argv"] = sys.argv[1:]
rdzv = shown["GEARSHIFT_RDZV"]
if rdzv.startswith("file://"):
    shown["mode"] = os.stat(rdzv.removeprefix("file://")).st_mode
open(f"env-{rank}.json", "w").write(json.dumps(shown))
"""


def dumps(folder: Path, count: int) -> list[dict]:
    return [json.loads((folder / f"env-{rank}.json").read_text()) for rank in range(count)]


def test_every_process_learns_its_place(launcher):
    ended = launcher.run("-n", "3", "--servers", "2", launcher.script(DUMP), "-x", "--n", "5")
    assert ended.code == 0, ended.err
    found = dumps(launcher.folder, 5)
    for rank, env in enumerate(found):
        assert env["argv"] == ["-x", "--n", "5"]
        assert env["GEARSHIFT_RANK"] == env["GEARSHIFT_LOCAL_RANK"] == str(rank)
        assert env["GEARSHIFT_WORLD_SIZE"] == env["GEARSHIFT_LOCAL_WORLD_SIZE"] == "5"
        assert env["GEARSHIFT_SERVERS"] == "2"
        assert (env["GEARSHIFT_NNODES"], env["GEARSHIFT_NODE_RANK"]) == ("1", "0")
        assert env["GEARSHIFT_LAUNCHER"] == "gearshift"
        assert env["GEARSHIFT_RDZV"] == found[0]["GEARSHIFT_RDZV"]
        assert len(env["GEARSHIFT_TOKEN"]) == 64
        assert stat.S_IMODE(env["mode"]) == 0o700
    assert len({env["GEARSHIFT_TOKEN"] for env in found}) == 1
    assert not os.path.exists(found[0]["GEARSHIFT_RDZV"].removeprefix("file://"))


def test_token_is_fresh_for_each_job_and_never_shown(launcher):
    script = launcher.script(DUMP)
    tokens = set()
    for _ in range(2):
        ended = launcher.run(script, env={"GEARSHIFT_TOKEN": "of-an-outer-job-" * 3})
        token = dumps(launcher.folder, 1)[0]["GEARSHIFT_TOKEN"]
        assert token not in ended.out + ended.err
        tokens.add(token)
    assert len(tokens) == 2


def test_two_nodes(launcher):
    script = launcher.script(DUMP)
    env = {"GEARSHIFT_TOKEN": "0123456789abcdef" * 4}
    nodes = [
        launcher.start(
            *("-n", "2", "--servers", "1", "--nnodes", "2", "--node-rank", str(node)),
            *("--rdzv", "192.0.2.7:29500", script),
            env=env,
        )
        for node in (0, 1)
    ]
    for node in nodes:
        node.communicate(timeout=60)
        assert node.returncode == 0
    found = dumps(launcher.folder, 5)
    place = [
        tuple(env[f"GEARSHIFT_{name}"] for name in ("NODE_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        for env in found
    ]
    on_node_0 = [("0", str(local_rank), "3") for local_rank in range(3)]
    assert place == [*on_node_0[:2], ("1", "0", "2"), ("1", "1", "2"), on_node_0[2]]
    for env in found:
        assert env["GEARSHIFT_RDZV"] == "tcp://192.0.2.7:29500"
        assert env["GEARSHIFT_TOKEN"] == "0123456789abcdef" * 4
        assert (env["GEARSHIFT_WORLD_SIZE"], env["GEARSHIFT_NNODES"]) == ("5", "2")


def test_options_reach_the_environment(launcher):
    ended = launcher.run(
        *("-n", "2", "--timeout", "7.5", "--interface", "192.0.2.9", "--env", "MARK=a=b"),
        *("--env", "OMP_NUM_THREADS=3", launcher.script(DUMP)),
    )
    assert ended.code == 0, ended.err
    for env in dumps(launcher.folder, 2):
        assert env["GEARSHIFT_TIMEOUT"] == "7.5"
        assert env["GEARSHIFT_INTERFACE"] == "192.0.2.9"
        assert env["MARK"] == "a=b"
        assert env["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in ended.err


def test_threads_are_shared_out_and_said_once(launcher):
    ended = launcher.run("-n", "2", launcher.script(DUMP))
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert dumps(launcher.folder, 2)[1]["OMP_NUM_THREADS"] == str(threads)
    assert ended.err.count("OMP_NUM_THREADS") == 1


def test_a_number_of_processes_behind_the_script_is_noticed(launcher):
    script = launcher.script("print(sys.argv[1:])")
    ended = launcher.run(script, "-n", "2")
    assert ended.out == "[0] ['-n', '2']\n"
    assert f"-n stands behind {script}, which gets it; this starts one process" in ended.err
    assert "stands behind" not in launcher.run("-n", "2", script, "-n", "2").err
    assert "stands behind" not in launcher.run("--", sys.executable, script, "-n", "2").err


def test_processes_that_never_meet_are_noticed(launcher):
    script = launcher.script("print(rank)")
    ended = launcher.run("-n", "2", script)
    assert f"no process of {script} joined the job, so each of the 2 did all" in ended.err
    assert "joined the job" not in launcher.run("-n", "1", script).err
    assert "joined the job" not in launcher.run("-n", "2", launcher.script("sys.exit(3)")).err


def test_servers_of_other_launchers_are_noticed(launcher):
    script, env = launcher.script("print(rank)"), {"GEARSHIFT_SERVERS": "2"}
    ended = launcher.run("-n", "1", "--servers", "1", script, env=env)
    assert "GEARSHIFT_SERVERS=2 is for other launchers, and has no effect here" in ended.err
    assert "as many dedicated servers as --servers says (1)" in ended.err
    assert "other launchers" not in launcher.run("--servers", "2", script, env=env).err


def test_token_file(launcher):
    path = launcher.folder / "token"
    path.write_text("f" * 64 + "\n")
    path.chmod(0o644)
    arguments = ("--token-file", str(path), launcher.script(DUMP))
    refused = launcher.run(*arguments)
    assert refused.code == 2
    assert "chmod 600" in refused.err
    path.chmod(0o600)
    assert launcher.run(*arguments).code == 0
    assert dumps(launcher.folder, 1)[0]["GEARSHIFT_TOKEN"] == "f" * 64


def test_token_file_in_the_environment_of_several_nodes(launcher):
    path = launcher.folder / "token"
    path.write_text("f" * 64 + "\n")
    path.chmod(0o600)
    ended = launcher.run(
        *("--nnodes", "2", "--rdzv", "192.0.2.7:29500", launcher.script(DUMP)),
        env={"GEARSHIFT_TOKEN_FILE": str(path)},
    )
    assert ended.code == 0, ended.err
    found = dumps(launcher.folder, 1)[0]
    assert found["GEARSHIFT_TOKEN"] == "f" * 64
    assert "GEARSHIFT_TOKEN_FILE" not in found


def test_module(launcher):
    launcher.script(DUMP, name="some_module.py")
    ended = launcher.run("-n", "2", "-m", "some_module", "--flag")
    assert ended.code == 0, ended.err
    assert [env["argv"] for env in dumps(launcher.folder, 2)] == [["--flag"]] * 2


def test_executable_after_dashes(launcher):
    ended = launcher.run("-n", "2", "--", "/bin/sh", "-c", "echo $0 $GEARSHIFT_RANK", "--")
    assert ended.code == 0
    assert sorted(ended.out.splitlines()) == ["[0] -- 0", "[1] -- 1"]


TWO_NODES = ("--nnodes", "2", "--rdzv")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-n", "0", "S"), "at least one process"),
        (("-n", "99999999999999999999", "S"), "the limit of open files"),
        (("--servers", "-1", "S"), "--servers -1"),
        (("--nnodes", "0", "S"), "at least one node"),
        (("--nnodes", "2", "--node-rank", "2", "S"), "--node-rank 2 is outside 0…1"),
        (("--nnodes", "2", "S"), "needs --rdzv HOST:PORT"),
        ((*TWO_NODES, "192.0.2.7", "S"), "is not HOST:PORT"),
        ((*TWO_NODES, "192.0.2.7:99999", "S"), "port from 1 to 65535"),
        ((*TWO_NODES, "localhost:29500", "S"), "other nodes cannot reach"),
        ((*TWO_NODES, "[::1]:29500", "S"), "resolves to ::1"),
        ((*TWO_NODES, "no-such-host.invalid:29500", "S"), "does not resolve"),
        ((*TWO_NODES, "192.0.2.7:29500", "S"), "export GEARSHIFT_TOKEN=$(openssl rand -hex 32)"),
        (("--timeout", "0", "S"), "--timeout 0.0: give a positive"),
        (("--grace", "nan", "S"), "--grace nan"),
        (("--interface", "eth0", "S"), "is not an IP address"),
        (("--interface", "0.0.0.0", "S"), "cannot connect to that"),
        (("--interface", "::", "S"), "cannot connect to that"),
        (("--env", "NAME", "S"), "give NAME=VALUE"),
        (("--env", "GEARSHIFT_TIMEOUT=inf", "S"), "GEARSHIFT_TIMEOUT inf: give a positive"),
        (("--env", "GEARSHIFT_TIMEOUT=2m", "S"), "GEARSHIFT_TIMEOUT='2m' is not a number"),
        (("--env", "GEARSHIFT_TOKEN=x", "S"), "--token-file"),
        (("no-such-script.py",), "script 'no-such-script.py' does not exist"),
        (("--", "no-such-program"), "neither an executable file nor a command"),
        (("/bin/sh",), "gearshift run [options] -- /bin/sh"),
        (("sh", "job.sh"), "to start the command: gearshift run [options] -- sh"),
        (("--", "no-such-script.py"), "to start a Python script, leave -- out"),
        (("-m", "--", "json.tool"), "choose one"),
        (("--no-such-option", "S"), "No such option"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capfd, arguments, words):
    script = tmp_path / "script.py"
    script.write_text("print('started')")
    for name in ("GEARSHIFT_TOKEN", "GEARSHIFT_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        main(["run", *[str(script) if argument == "S" else argument for argument in arguments]])
    shown = capfd.readouterr()
    assert end.value.code == 2
    assert words in shown.err
    assert "started" not in shown.out


def test_a_token_that_can_be_guessed_is_refused(tmp_path, monkeypatch, capfd):
    """Such as that of a documented command, copied as it stands."""
    (tmp_path / "script.py").write_text("print('started')")
    monkeypatch.setenv("GEARSHIFT_TOKEN", "…")
    with pytest.raises(SystemExit) as end:
        main(["run", *TWO_NODES, "192.0.2.7:29500", str(tmp_path / "script.py")])
    assert end.value.code == 2
    assert "GEARSHIFT_TOKEN has fewer than 16 characters" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "environ", "grace"),
    [
        ({}, {}, 40.0),
        ({}, {"GEARSHIFT_TIMEOUT": ""}, 40.0),
        ({}, {"GEARSHIFT_TIMEOUT": "7"}, 17.0),
        ({"extra_env": {"GEARSHIFT_TIMEOUT": "120"}}, {"GEARSHIFT_TIMEOUT": "7"}, 130.0),
        ({"extra_env": {"GEARSHIFT_TIMEOUT": "120"}, "timeout": 5.0}, {}, 15.0),
        ({"extra_env": {"GEARSHIFT_TIMEOUT": "120"}, "grace": 2.0}, {}, 2.0),
    ],
)
def test_grace_is_longer_than_the_timeout_of_the_processes(options, environ, grace):
    made = LaunchOptions(target=("train.py",), **options)
    validate_numbers(made, environ)
    assert made.grace_seconds(environ) == grace


def test_launcher_needs_neither_torch_nor_numpy_nor_the_core(clean_env):
    source = """
import sys
for name in ("torch", "numpy", "gearshift._core", "matplotlib", "rich.live"):
    sys.modules[name] = None
import gearshift.cli, gearshift.launch.launcher, gearshift.launch.environment
gearshift.launch.environment.detect({})
"""
    subprocess.run([sys.executable, "-c", source], env=clean_env(), check=True, timeout=60)


@pytest.mark.parametrize("rank", [0, 1])
def test_commands_that_another_launcher_starts_are_jobs_of_their_own(launcher, rank):
    """As by `srun -N 2 gearshift run -n 4 train.py`, which is told once."""
    slurm = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}
    place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank)}
    ended = launcher.run(launcher.script("pass"), env={**slurm, **place})
    assert ended.code == 0
    assert ("2 of these commands are started side by side" in ended.err) == (rank == 0)


def test_a_limit_of_open_files_that_is_enough_for_none(launcher):
    command = f"ulimit -n 31; exec {sys.executable} -m gearshift run -n 2 {launcher.script('pass')}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the limit of open files (31) is not enough for one; raise it" in done.stderr
