"""`gearshift run job.toml`: what a job file says, what overrides it, and what is wrong with it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from gearshift.cli import main
from gearshift.launch import LaunchError
from gearshift.launch.toml_file import Table, TomlFile

DUMP = """
import json
names = ("GEARSHIFT_", "MARK", "OTHER")
shown = {k: v for k, v in os.environ.items() if k.startswith(names) and "TOKEN" not in k}
del shown["GEARSHIFT_RDZV"]
shown.update(argv=sys.argv[1:], cwd=os.getcwd())
open(f"env-{rank}.json", "w").write(json.dumps(shown))
"""
JOB = """
script = "script.py"
processes = 2
servers = 1
folder = "../work"
timeout = 7.5
grace = 3
transports = ["tcp"]
log_dir = "logs"
prefix = false
strategy = "ps:ssp(3)"
total_steps = 90

[arguments]
lr = 0.1
batch-size = 64
name = "a b"
nesterov = true
dropout = false
layers = [3, 4]

[env]
MARK = "a=b"
OTHER = 3
"""


@pytest.fixture
def job(launcher):
    """A job file in a folder beside the one that the shell is in."""
    folder = launcher.folder / "jobs"
    folder.mkdir()
    (launcher.folder / "work").mkdir()
    launcher.script(DUMP, name="jobs/script.py")
    (folder / "job.toml").write_text(JOB)
    return "jobs/job.toml"


def dumps(folder: Path, count: int) -> list[dict]:
    return [json.loads((folder / f"env-{rank}.json").read_text()) for rank in range(count)]


def test_the_file_says_everything(launcher, job):
    ended = launcher.run(job)
    assert ended.code == 0, ended.err
    line = f"gearshift run: {job}: strategy ps:ssp(3), 2 workers and 1 dedicated server\n"
    assert ended.err.startswith(line)
    for env in dumps(launcher.folder / "work", 3):
        assert env["argv"] == shlex.split(
            "--lr 0.1 --batch-size 64 --name 'a b' --nesterov --layers 3 4"
        )
        assert env["cwd"] == str(launcher.folder / "work")
        assert (env["GEARSHIFT_WORLD_SIZE"], env["GEARSHIFT_SERVERS"]) == ("3", "1")
        assert (env["GEARSHIFT_STRATEGY"], env["GEARSHIFT_TOTAL_STEPS"]) == ("ps:ssp(3)", "90")
        assert (env["GEARSHIFT_TIMEOUT"], env["GEARSHIFT_TRANSPORTS"]) == ("7.5", "tcp")
        assert (env["MARK"], env["OTHER"]) == ("a=b", "3")
    assert len(list((launcher.folder / "jobs" / "logs").iterdir())) == 3


def test_the_command_line_overrides_the_file_and_that_the_environment(launcher, job):
    ended = launcher.run(
        *("-n", "1", "--servers", "0", "--strategy", "ps:asp", "--timeout", "9", "--env", "MARK=c"),
        *("--folder", ".", "--log-dir", "here", job, "--lr", "0.5"),
        env={"GEARSHIFT_STRATEGY": "all_reduce", "GEARSHIFT_TOTAL_STEPS": "7", "OTHER": "4"},
    )
    assert ended.code == 0, ended.err
    assert "strategy ps:asp, 1 worker\n" in ended.err
    (env,) = dumps(launcher.folder, 1)
    assert env["argv"][-2:] == ["--lr", "0.5"]
    assert (env["GEARSHIFT_STRATEGY"], env["GEARSHIFT_TOTAL_STEPS"]) == ("ps:asp", "90")
    assert (env["GEARSHIFT_SERVERS"], env["GEARSHIFT_TIMEOUT"]) == ("0", "9")
    assert (env["MARK"], env["OTHER"]) == ("c", "3")
    assert (launcher.folder / "here" / "rank-0.log").exists()


def test_a_value_equal_to_the_default_overrides_as_well(launcher, job):
    ended = launcher.run("--processes", "1", "--prefix", "--env", "GEARSHIFT_STRATEGY=ps:bsp", job)
    assert ended.code == 0, ended.err
    assert f"{job}: strategy ps:bsp, 1 worker and 1 dedicated server\n" in ended.err
    first, _ = dumps(launcher.folder / "work", 2)
    assert first["GEARSHIFT_STRATEGY"] == "ps:bsp"


def test_options_behind_the_file_are_noticed(launcher, job):
    ended = launcher.run(job, "-n", "1")
    assert f"-n stands behind {job}, whose program gets it" in ended.err
    assert dumps(launcher.folder / "work", 1)[0]["argv"][-2:] == ["-n", "1"]
    assert "stands behind" not in launcher.run("-n", "1", job, "--n", "3").err


def test_a_number_of_processes_among_the_arguments_is_noticed(launcher, tmp_path):
    job = tmp_path / "job.toml"
    for above, noticed in (("", True), ("processes = 2\n", False)):
        job.write_text(f'program = "true"\n{above}[arguments]\nlr = 0.1\nprocesses = 2\n')
        ended = launcher.run(job)
        said = f"arguments of {job} have --processes, which its program gets; this starts one"
        assert (said in ended.err) == noticed, ended.err


def test_a_dry_run_prints_the_command_that_does_the_same(launcher, job):
    ended = launcher.run("--dry-run", job, "--seed", "3")
    assert ended.code == 0, ended.err
    comment, command = ended.out.splitlines()
    assert comment == f"# {job}: strategy ps:ssp(3), 2 workers and 1 dedicated server"
    assert not list((launcher.folder / "work").iterdir())
    words = shlex.split(command)
    assert words[:2] == ["gearshift", "run"]
    assert launcher.run(*words[2:]).code == 0
    written = dumps(launcher.folder / "work", 3)
    assert launcher.run(job, "--seed", "3").code == 0
    assert dumps(launcher.folder / "work", 3) == written


def test_a_dry_run_prints_times_to_their_last_digit(launcher, job):
    file = launcher.folder / job
    file.write_text(JOB.replace("timeout = 7.5", "timeout = 86400.125"))
    ended = launcher.run("--dry-run", job)
    assert "--timeout 86400.125 --grace 3 " in ended.out


def test_arguments_as_an_array_and_a_module(launcher):
    launcher.script(DUMP, name="some_module.py")
    (launcher.folder / "job.toml").write_text('module = "some_module"\narguments = ["in", -1, 2.5]')
    assert launcher.run("job.toml").code == 0
    (env,) = dumps(launcher.folder, 1)
    assert env["argv"] == ["in", "-1", "2.5"]
    assert "GEARSHIFT_STRATEGY" not in env


@pytest.mark.parametrize("program", ["sh", "./a program"])
def test_a_program_of_the_path_and_one_beside_the_file(launcher, program):
    path = launcher.folder / "jobs"
    path.mkdir()
    (path / "a program").write_text('#!/bin/sh\nexec sh "$@"')
    (path / "a program").chmod(0o755)
    (path / "job.toml").write_text(
        f'program = "{program}"\narguments = ["-c", "echo $GEARSHIFT_STRATEGY of $0", "me"]\n'
    )
    ended = launcher.run("--strategy", "ps:asp", "jobs/job.toml")
    assert (ended.code, ended.out) == (0, "[0] ps:asp of me\n"), ended.err


def test_a_script_keeps_its_own_name_for_a_toml_file(launcher):
    """Only what stands where a script does is a job file."""
    launcher.script("print(sys.argv[1])")
    (launcher.folder / "config.toml").write_text("no TOML")
    assert launcher.run("script.py", "config.toml").out == "[0] config.toml\n"
    assert launcher.run("--", "cat", "config.toml").out == "[0] no TOML\n"


def test_the_strategy_of_the_command_line_without_a_file(launcher):
    ended = launcher.run(
        *("--strategy", "switch(at=3)", "--total-steps", "9", "--transports", "tcp,shm"),
        launcher.script(DUMP),
    )
    assert ended.code == 0, ended.err
    (env,) = dumps(launcher.folder, 1)
    assert (env["GEARSHIFT_STRATEGY"], env["GEARSHIFT_TOTAL_STEPS"]) == ("switch(at=3)", "9")
    assert env["GEARSHIFT_TRANSPORTS"] == "tcp,shm"


def refusal(capfd, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["run", *arguments])
    shown = capfd.readouterr()
    assert end.value.code == 2
    assert "started" not in shown.out
    return shown.err


START = 'script = "script.py"  # line 1\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("processes = 2", '1: script: is missing: a Python script (or module = "…", or program'),
        ('\nscript = "none.py"', "2: script: {folder}/none.py does not exist"),
        ('program = "./script.py"', "1: program: {folder}/script.py is no executable file"),
        ('program = "no-such-command"', '1: program: "no-such-command" is no command on PATH'),
        (START + 'module = "m"', "2: module: contradicts script: a job starts one of them"),
        (START + 'script = "b.py"', "2: Cannot overwrite a value"),
        (START + "processes = ", "2: Invalid value"),
        (START + "processes = \n\nservers = 3", "2:13: Invalid value"),
        (START + "\n# a comment\nworkers = 2", "4: workers: unknown key; there are"),
        ('processes = 2\nscrpt = "a.py"', '2: scrpt: unknown key; did you mean "script"?'),
        ('modul = "a"', '1: modul: unknown key; did you mean "module"?'),
        (START + "proceses = 2", '2: proceses: unknown key; did you mean "processes"?'),
        (START + "processes = 0", "2: processes: must be at least 1, this is 0"),
        (START + 'processes = "2"', '2: processes: must be a whole number, this is "2"'),
        (START + "processes = true", "2: processes: must be a whole number, this is true"),
        (START + "servers = -1", "2: servers: must be at least 0, this is -1"),
        (START + "total_steps = 0", "2: total_steps: must be at least 1"),
        (START + "timeout = 0", "2: timeout: must be a positive number of seconds, this is 0"),
        (START + 'timeout = "30 s"', '2: timeout: must be a number of seconds, this is "30 s"'),
        (START + "grace = inf", "2: grace: must be zero or a positive number of seconds"),
        (START + f"timeout = 1{400 * '0'}", "2: timeout: a whole number is outside of -2^63 to"),
        (START + "[env]\nA = [9223372036854775808]", "3: env.A[0]: a whole number is outside"),
        (START + 'module = "a\\u0000b"', "2: module: has a character of number 0"),
        (START + 'arguments = ["a\\u0000b"]', "2: arguments: has a character of number 0"),
        (START + '[arguments]\nname = "\\u0000"', "3: arguments.name: has a character of number 0"),
        (START + '[arguments]\n"a\\u0000" = true', "has a character of number 0"),
        (START + "prefix = 1", "2: prefix: must be true or false, this is 1"),
        (START + 'transports = ["tcp", "pigeon"]', "2: transports: [1] must be one of"),
        (START + "transports = []", "2: transports: is empty"),
        (START + 'strategy = "gossip"', "2: strategy: strategy 'gossip' is none of"),
        (START + 'strategy = ""', "2: strategy: is empty"),
        (START + 'strategy = ["ps"]', "2: strategy: must be a text, this is an array"),
        (
            START + 'servers = 1\nstrategy = "ps:bsp(servers=2)"',
            "3: strategy: 'ps:bsp(servers=2)' wants 2 dedicated servers, and the job has 1",
        ),
        (START + "nnodes = 2", '2: nnodes: 2 nodes need rdzv = "HOST:PORT"'),
        (START + 'rdzv = "node0"', "2: rdzv: rendezvous 'node0' is not HOST:PORT"),
        (START + "node_rank = 1", "2: node_rank: differs from node to node: give --node-rank"),
        (START + 'interface = "10.0.0.1"', "2: interface: differs from node to node"),
        (START + 'folder = "none"', "2: folder: {folder}/none is no folder"),
        (START + "arguments = 3", "2: arguments: must be an array, or a table of options"),
        (
            START + "arguments = [\n  1,\n  [2],\n]",
            "2: arguments: must be an array of texts and numbers, this is an array",
        ),
        (
            START + "[arguments]\na = 1\nb.c = 2",
            "4: arguments.b: must be a text, a number, true, false or an array, this is a table",
        ),
        (START + "[arguments]\na = [true]", "3: arguments.a: must be an array of texts and num"),
        (START + "[env]\nA = '''\n'''\nB = 1979-05-27", "5: env.B: must be a text or a number"),
        (START + "env = 3", "2: env: must be a table, [env], this is 3"),
        (START + '[env]\n"A=B" = 1', "3: env.A=B: no variable can have this name"),
        (START + '[env]\nstrategy = "ps"', "3: env.strategy: belongs to the file itself: move it"),
        (START + '[env]\nGEARSHIFT_STRATEGY = "ps"', 'has a key of its own: "strategy"'),
        (START + "[env]\nGEARSHIFT_RANK = 1", "3: env.GEARSHIFT_RANK: is what gearshift run tells"),
        (START + '[env]\nGEARSHIFT_TOKEN = "x"', "3: env.GEARSHIFT_TOKEN: would be a secret"),
        (START + "[environment]\nA = 1", "2: environment: unknown key"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(tmp_path, capfd, text, complaint):
    (tmp_path / "script.py").write_text("print('started')")
    path = tmp_path / "job.toml"
    path.write_text(text)
    err = refusal(capfd, str(path))
    assert complaint.format(folder=tmp_path) in err
    if complaint[0].isdigit():
        assert err.startswith(f"gearshift: {path}:{complaint.format(folder=tmp_path)}")


@pytest.mark.parametrize(
    ("lines", "options", "complaint"),
    [
        ('log_dir = "script.py"', (), "{path}:2: log_dir: {folder}/script.py: File exists"),
        ('token_file = "none"', (), "{path}:2: token_file: cannot read the token file {folder}/no"),
        (
            'nnodes = 2\nrdzv = "localhost:29500"',
            (),
            "{path}:3: rdzv: 'localhost' resolves to ",
        ),
        (
            'log_dir = "logs"',
            ("--log-dir", "{folder}/script.py"),
            "--log-dir {folder}/script.py: F",
        ),
        ('strategy = "ps"', ("--timeout", "nan"), "--timeout nan: give a positive number"),
    ],
)
def test_what_turns_out_to_be_wrong_is_of_the_file_that_says_it(
    tmp_path, capfd, lines, options, complaint
):
    (tmp_path / "script.py").write_text("print('started')")
    path = tmp_path / "job.toml"
    path.write_text(START + lines)
    told = [option.format(folder=tmp_path) for option in options]
    err = refusal(capfd, *told, str(path)).splitlines()[-1]
    assert err.startswith("gearshift: " + complaint.format(path=path, folder=tmp_path))


def test_what_cannot_be_read(tmp_path, capfd):
    path = tmp_path / "job.toml"
    assert (
        refusal(capfd, str(path)) == f"gearshift: cannot read {path}: No such file or directory\n"
    )
    for unread, told in (
        (b"a = " + 5000 * b"1", "a whole number is outside of -2^63 to 2^63 - 1"),
        (b"a = " + 9000 * b"[" + 9000 * b"]", "is nested too deeply"),
    ):
        path.write_bytes(unread)
        assert refusal(capfd, str(path)) == f"gearshift: {path}: {told}\n"
    path.write_bytes(b'script = "a"\n# \xff')
    assert refusal(capfd, str(path)) == f"gearshift: {path}:2: is no UTF-8 text\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--strategy", "gossip"), "gearshift: --strategy: strategy 'gossip' is none of"),
        (("--strategy", "ps(servers=1)"), "--strategy: 'ps(servers=1)' wants 1 dedicated servers"),
        (("--transports", "tcp,ipx"), "--transports: 'ipx' is none of tcp, shm"),
        (("--total-steps", "0"), "--total-steps 0: a job makes at least one step"),
        (("--folder", "/no/such"), "--folder /no/such is no folder"),
    ],
)
def test_what_is_wrong_on_the_command_line(tmp_path, capfd, arguments, complaint):
    script = tmp_path / "script.py"
    script.write_text("print('started')")
    assert complaint in refusal(capfd, *arguments, str(script))


def test_an_override_of_the_servers_counts_for_the_strategy(tmp_path, capfd):
    (tmp_path / "script.py").write_text("print('started')")
    path = tmp_path / "job.toml"
    path.write_text(START + 'strategy = "ps:bsp(servers=2)"')
    assert f"{path}:2: strategy: 'ps:bsp(servers=2)' wants 2" in refusal(capfd, str(path))
    with pytest.raises(SystemExit) as end:
        main(["run", "--servers", "2", "--dry-run", str(path)])
    assert end.value.code == 0
    assert "--servers 2 --strategy 'ps:bsp(servers=2)'" in capfd.readouterr().out


def test_lines_are_those_where_a_statement_begins(tmp_path):
    path = tmp_path / "lines.toml"
    path.write_bytes(
        b'a = """\r\nb = 1\r\n"""\r\nb = [\r\n  1, # c = 2\r\n]\r\n\r\n[t.u]\r\nv.w = 3\r\n'
        b"[[list]]\r\nd = 1\r\n"
    )
    file = TomlFile(path)
    lines = {("a",): 1, ("b",): 4, ("t", "u", "v", "w"): 9, ("t", "u"): 8, ("list",): 10}
    assert {keys: file.line_of(keys) for keys in lines} == lines
    assert file.line_of(("none",)) == 1


def test_some_editors_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "marked.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\nb = 2\n")
    file = TomlFile(path)
    assert file.root == {"a": 1, "b": 2}
    assert file.line_of(("b",)) == 2


def test_a_table_is_read_key_by_key(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[t]\nflag = false\nnumber = 3\n")
    file = TomlFile(path)
    table = Table(file, file.root).table("t")
    assert table is not None
    assert table.flag("flag") is False
    assert table.whole("absent", 1) is None
    with pytest.raises(LaunchError, match=r"a.toml:3: t.number: unknown key; there are \"flag\""):
        table.no_other_keys()


def test_the_help_names_the_options(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["gearshift"])
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capfd.readouterr().out
    for word in ("JOB.toml", "--strategy", "--total-steps", "--transports", "--dry-run"):
        assert word in shown
