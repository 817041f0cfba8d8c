"""The driver on small settings: made-up programs whose times are known, and our own programs."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from gearshift.bench import command, driver, machine, place, registry
from gearshift.bench.case import OURS, Point, Setting, Side, Target
from gearshift.bench.display import LiveDisplay, PlainDisplay
from gearshift.bench.driver import Bench, BenchOptions
from gearshift.bench.gate import Gate, parse_order
from gearshift.bench.hosts import NamespaceError
from gearshift.bench.results import spread
from gearshift.bench.side import Places, RunningSide, SideError, summed_up
from gearshift.bench.table import counts, human_seconds, markdown, notes
from gearshift.bench.targets import check
from gearshift.launch import LaunchError
from gearshift.report.files import claimed

HEAD = """
import os, sys
from gearshift.bench.gate import Gate
rank = int(os.environ["RANK"])
"""


@pytest.fixture
def program(tmp_path):
    """Writes a program that has a gate, and makes a side of it."""

    def write(name: str, body: str, **more) -> Side:
        path = tmp_path / f"program_{name}.py"
        path.write_text(HEAD + textwrap.dedent(body))
        return Side(name, str(path), **more)

    return write


@pytest.fixture
def made_up(program):
    """A side that claims to need so many seconds for one operation, and more on rank 1."""

    def make(name: str, seconds: float, verified: bool = True) -> Side:
        return program(
            name,
            f"""
            gate = Gate(rank)
            for order in gate:
                batches = int(order["batches"])
                gate.report(seconds=[{seconds} * (1 + rank)] * batches, verified={verified},
                            problem="" if {verified} else "off by one", operations=1, share=0.25)
            """,
        )

    return make


@pytest.fixture
def run(tmp_path):
    """Runs settings, quickly; returns the summary."""

    def measure(*settings: Setting) -> dict:
        display = PlainDisplay(Console(quiet=True))
        summary = Bench(BenchOptions(tmp_path / "out", quick=True), display).run(settings)
        written = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert written == json.loads(json.dumps(summary))
        return summary

    return measure


def setting(*sides: Side, targets=(), **more) -> Setting:
    point = Point("4KiB", {"bytes": 4096}, 4096, tuple(targets), quick=True, rounds=3)
    return Setting("test/2", "test", 2, sides, (point,), **more)


def test_ratio_is_the_peers_time_by_ours(made_up, run):
    """And a side's time is that of its slowest rank."""
    targets = [
        Target("ratio", 4, "slow"),
        Target("ratio", 4.1, "slow"),
        Target("difference", 0.031, "slow"),
        Target("difference", 0.029, "slow"),
        Target("ratio", 1, "absent"),
    ]
    sides = (made_up(OURS, 0.005), made_up("slow", 0.02))
    (case,) = run(setting(*sides, targets=targets))["cases"]
    assert case["skipped"] == {}
    assert case["case"] == "test/2/4KiB"
    assert case["rounds"] == 3
    assert case["sides"][OURS]["seconds"]["median"] == pytest.approx(0.01)
    assert case["sides"][OURS]["more"] == {"share": 0.25}
    assert case["sides"][OURS]["verified"]
    assert case["ratios"]["slow"]["all"] == pytest.approx([4, 4, 4])
    assert [t["reached"] for t in case["targets"]] == [True, False, True, False]
    assert case["skipped"] == {}


def test_wrong_result_is_shown(made_up, run):
    summary = run(setting(made_up(OURS, 0.01), made_up("bad", 0.02, verified=False)))
    bad = summary["cases"][0]["sides"]["bad"]
    assert not bad["verified"]
    assert bad["problems"] == ["rank 0: off by one; rank 1: off by one"]
    assert "bad: WRONG RESULT: rank 0: off by one" in notes(summary)[0]
    assert command.failed(summary)


def test_absent_peer_is_skipped(made_up, run):
    absent = replace(made_up("absent", 0.01), modules=("no_such_module",))
    unbuilt = Side("unbuilt", "no_such_program")
    summary = run(setting(made_up(OURS, 0.01), absent, unbuilt))
    skipped = summary["cases"][0]["skipped"]
    assert skipped["absent"] == "the Python package no_such_module is not installed"
    assert "no_such_program does not exist" in skipped["unbuilt"]
    assert list(summary["cases"][0]["sides"]) == [OURS]
    assert not command.failed(summary)


def test_peer_that_dies_is_out(made_up, program, run):
    """Ours is measured all the same; the reason has the last words of the peer."""
    dying = program("dying", "gate = Gate(rank)\nnext(iter(gate))\nsys.exit('no more')")
    unborn = program("unborn", "sys.exit('not today')")
    summary = run(setting(made_up(OURS, 0.01), dying, unborn))
    skipped = summary["cases"][0]["skipped"]
    assert skipped["dying"].startswith("failed: ")
    assert "no more" in skipped["dying"]
    assert skipped["unborn"].startswith("did not start: ")
    assert "not today" in skipped["unborn"]
    assert len(summary["cases"][0]["sides"][OURS]["seconds"]["all"]) == 3
    assert command.failed(summary)


def test_sides_never_run_at_the_same_time(program, run, tmp_path):
    """And who is first changes from round to round."""
    log = tmp_path / "log"
    body = f"""
    gate = Gate(rank)
    for order in gate:
        if rank == 0:
            with open({str(log)!r}, "a", buffering=1) as f:
                f.write(sys.argv[1] + " begins\\n")
                f.write(sys.argv[1] + " ends\\n")
        gate.report(seconds=[0.1], verified=True)
    """
    sides = [program(n, body, arguments=(n,)) for n in (OURS, "peer")]
    point = Point("x", {}, calibrated=False, rounds=4)
    run(Setting("test", "test", 2, tuple(sides), (point,)))
    turns = log.read_text().split("\n")[:-1]
    names = [line.split()[0] for line in turns[::2]]
    assert names == [OURS, "peer", "peer", OURS] * 2
    assert turns[1::2] == [f"{name} ends" for name in names]


def test_program_without_gate(program, run):
    body = """
    print("loading")
    if rank == 0:
        print('{"seconds": [0.5], "verified": true, "steps": %s}' % sys.argv[1].split("=")[1])
    """
    side = program(OURS, body, gated=False)
    point = Point("step", {"steps": 3}, calibrated=False, rounds=2)
    (case,) = run(Setting("test", "test", 2, (side,), (point,)))["cases"]
    assert case["sides"][OURS]["seconds"]["all"] == [0.5, 0.5]
    assert case["sides"][OURS]["more"] == {"steps": 3}


def test_processes_are_gone_afterwards(program, tmp_path):
    """Those that ignore the end of their gate, too."""
    side = program("stubborn", "import time\ngate = Gate(rank)\ntime.sleep(1000)")
    with RunningSide(side, Places(2), tmp_path, 0, end_patience=0.5) as running:
        running.start()
        pids = [process.pid for process in running.processes]
        assert len(pids) == 2
        with pytest.raises(SideError, match="does not answer"):
            running.turn({}, patience=0.5)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_gate_without_driver(capsys, monkeypatch):
    monkeypatch.delenv("GEARSHIFT_BENCH_GATE", raising=False)
    for rank in (1, 0):
        gate = Gate(rank, ["--dtype", "x", "bytes=8", "steps=2"])
        assert list(gate) == [{"bytes": "8", "steps": "2"}]
        gate.report(seconds=[1.5], verified=True)
    assert json.loads(capsys.readouterr().out) == {"seconds": [1.5], "verified": True}


def test_parse_order():
    assert parse_order(["a=1", "b", "--c=2", "d=x=y"]) == {"a": "1", "d": "x=y"}


def test_summing_up_ranks():
    """The slowest rank of each batch; ranks without times only verify."""
    turn = summed_up(
        [
            {"seconds": [1, 5, 2], "verified": True, "operations": 7, "extra": 3},
            {"seconds": [4, 1, 2], "verified": True, "operations": 7, "extra": 9},
            {"seconds": [], "verified": False, "problem": "half"},
        ]
    )
    assert turn.seconds == 4
    assert turn.operations == 7
    assert turn.more == {"extra": 3}
    assert turn.problem == "rank 2: half"
    with pytest.raises(SideError):
        summed_up([{"seconds": [], "verified": True}])


def test_spread():
    assert spread([3.0])["low"] == spread([3.0])["median"] == 3.0
    result = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert [result[key] for key in ("least", "low", "median", "high", "most")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-6, "1.23 µs"), (9.996e-4, "1.00 ms"), (0.0456, "45.6 ms"), (123.4, "123 s")],
)
def test_human_seconds(seconds, text):
    assert human_seconds(seconds) == text


def test_selection():
    settings = registry.all_settings()
    names = [case for s in settings for case in s.cases()]
    assert len(names) == len(set(names))
    assert all(s.sides[0].name == OURS for s in settings)
    chosen = registry.select(settings, ["one_host/2/float32/*"], quick=True)
    assert [s.name for s in chosen] == ["one_host/2/float32"]
    assert chosen[0].cases() == [n for n in names if n.startswith("one_host/2/float32/")]
    assert registry.select(settings, ["one_host/2/float32"], quick=False) == chosen
    quick = registry.select(settings, [], quick=True)
    assert 0 < sum(len(s.points) for s in quick) < len(names)
    with pytest.raises(LaunchError, match="matches no case"):
        registry.select(settings, ["one_hots/*"], quick=False)


def test_targets_name_sides():
    """A target against something that is not measured would never be checked."""
    for s in registry.all_settings():
        sides = {side.name for side in s.sides}
        for target in (t for point in s.points for t in point.targets):
            assert target.against in sides or target.kind in ("bound", "bytes"), s.name
            assert s.network is not None or target.kind not in ("bound", "bytes"), s.name


def test_targets_without_a_time():
    result = {
        "bound": {"seconds": 2.0},
        "between_hosts": {"flat_ring": 6e6, "sent": {OURS: {"median": 2e6}}},
        "sides": {
            OURS: {"seconds": {"median": 2.5}, "more": {"pss_bytes": 5e6, "gradient_bytes": 1e6}},
            "peer": {"more": {"pss_bytes": 3.5e6}},
        },
    }
    for kind, against, limit, value, reached in (
        ("bound", "bound", 0.8, 0.8, True),
        ("bound", "bound", 0.9, 0.8, False),
        ("bytes", "flat ring", 2, 3.0, True),
        ("memory", "peer", 1, 1.5, False),
    ):
        checked = check(Target(kind, limit, against), result)
        assert checked is not None
        assert (checked["value"], checked["reached"]) == (pytest.approx(value), reached)
    assert check(Target("memory", 1, "absent"), result) is None


@pytest.fixture
def built():
    """The compiled programs."""
    if not (place.binary_folder() / "all_reduce").exists():
        pytest.fail(f"{place.binary_folder()} has no programs: run `make build`")


def test_real_sides(built, run):
    """Ours against the floor and all peers that are installed: right results, in every table."""
    real = registry.select(registry.all_settings(), ["one_host/2/float32/4KiB"], quick=True)
    point = replace(real[0].points[0], rounds=2)
    summary = run(replace(real[0], points=(point,)))
    (case,) = summary["cases"]
    assert {OURS, "floor"} <= set(case["sides"])
    assert all(side["verified"] for side in case["sides"].values()), case
    assert not command.failed(summary), case["skipped"]
    assert case["moved_bytes"] == 2 * 2 * 4096
    reached, checked = counts(summary)
    assert 0 <= reached <= checked
    text = markdown(summary)
    assert text.count("| one_host/2/float32/4KiB |") == len(case["sides"]) - 1
    assert summary["machine"]["cores"] >= 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("memory", ["shared", "plain"])
def test_half_types_are_verified(built, run, dtype, memory):
    side = Side(OURS, "all_reduce", ("--dtype", dtype, "--memory", memory))
    (case,) = run(setting(side))["cases"]
    assert case["sides"][OURS]["verified"], case


def test_plot(made_up, run, tmp_path):
    pytest.importorskip("matplotlib")
    from gearshift.bench.plot import draw

    summary = run(setting(made_up(OURS, 0.01), made_up("peer", 0.02)))
    path = draw(summary, tmp_path / "times.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")


def test_numbers_are_whole_on_a_narrow_terminal(made_up, run):
    targets = [Target("ratio", 4, "a peer of ours")]
    summary = run(setting(made_up(OURS, 1.234e-3), made_up("a peer of ours", 0.2), targets=targets))
    text = io.StringIO()
    command.show(summary, Console(file=text, width=60))
    for word in ("2.47 ms", "400 ms", "162x", "162x-162x", "≥ 4x", "yes"):
        assert word in text.getvalue()
    assert text.getvalue().count("test/2/4KiB") > 1


def test_names_of_algorithms_are_no_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    command._console().print("all_reduce:ring:4")
    assert "all_reduce:ring:4" in capsys.readouterr().out
    text = io.StringIO()
    with LiveDisplay(Console(file=text, force_terminal=True, width=120)) as display:
        display.start("all_reduce:ring:4 [/of]")
    assert "all_reduce:ring:4 [/of]" in text.getvalue()


def two_points(*sides: Side) -> Setting:
    points = tuple(Point(name, {"bytes": 4}, 4, rounds=2) for name in ("first", "second"))
    return Setting("test/2", "test", 2, sides, points)


INTERRUPTED = """
import sys
from pathlib import Path
from gearshift.bench import command
from gearshift.bench.case import OURS, Point, Setting, Side

folder = Path(sys.argv[1])
side = Side(OURS, str(folder / "program.py"))
points = tuple(Point(name, {"signal": name}, 4, calibrated=False, rounds=1)
               for name in ("none", sys.argv[2]))
command.all_settings = lambda: [Setting("test/2", "test", 2, (side,), points)]
sys.exit(command.bench(folder / "out", False, []))
"""
SIGNALLING = """
import os, signal
from gearshift.bench.gate import Gate
rank = int(os.environ["RANK"])
gate = Gate(rank)
for order in gate:
    if order["signal"] != "none":
        if rank == 0:
            os.kill(os.getppid(), getattr(signal, order["signal"]))
        continue
    gate.report(seconds=[0.5], verified=True, pid=os.getpid())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_what_was_measured_before_a_signal_is_kept(tmp_path, name, code):
    """And shown, and the processes are gone."""
    (tmp_path / "program.py").write_text(SIGNALLING)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "interrupted: 1 of 2 cases measured" in done.stdout
    assert "Numbers: " in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [case["case"] for case in summary["cases"]] == ["test/2/none"]
    assert summary["interrupted"]["of"] == 2
    assert not Path(f"/proc/{summary['cases'][0]['sides'][OURS]['more']['pid']:.0f}").exists()


def test_an_interrupt_leaves_processes_little_time(program, tmp_path, monkeypatch):
    """None that SIGKILL might end, as of `docker stop`, before hosts are removed."""
    waits = []
    monkeypatch.setattr(RunningSide, "_wait", lambda running, patience: waits.append(patience))
    monkeypatch.setattr(RunningSide, "_end_running", lambda running: None)
    side = program("x", "")
    for error in (KeyboardInterrupt, SideError):
        with pytest.raises(error), RunningSide(side, Places(2), tmp_path, 0):
            raise error
    assert waits == [1.0, 10.0]


def test_a_second_interrupt_ends_processes_at_once(program, tmp_path, monkeypatch):
    side = program("stubborn", "import time\ngate = Gate(rank)\ntime.sleep(1000)")
    with RunningSide(side, Places(2), tmp_path, 0, end_patience=1000.0) as running:
        running.start()
        pids = [process.pid for process in running.processes]
        wait = running._wait

        def interrupted(patience: float) -> None:
            if patience == 1000.0:
                raise KeyboardInterrupt
            wait(patience)

        monkeypatch.setattr(running, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            running.end()
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        monkeypatch.undo()


def test_a_full_disk_costs_the_file_only(made_up, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    made = setting(made_up(OURS, 0.01))
    monkeypatch.setattr(command, "all_settings", lambda: [made])
    monkeypatch.setattr(driver, "write_json", full)
    assert command.bench(tmp_path / "out", True, []) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "test/2/4KiB: gearshift 20.0 ms" in told
    assert "summary.json: No space left on device" in told


def test_files_are_whole_and_of_one_run(made_up, run, tmp_path):
    """The picture of an earlier run goes when there are new numbers."""
    (tmp_path / "out").mkdir()
    for name in (driver.PLOT, driver.SUMMARY):
        (tmp_path / "out" / name).write_text("old")
    run(setting(made_up(OURS, 0.01)))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"logs", driver.SUMMARY}


def test_one_run_at_a_time(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "all_settings", lambda: [setting(made_up(OURS, 0.01))])
    with (
        claimed(tmp_path / "out"),
        pytest.raises(LaunchError, match="another run is writing its results there"),
    ):
        command.bench(tmp_path / "out", True, [])
    assert command.bench(tmp_path / "out", True, []) == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="file: File exists"):
        command.bench(tmp_path / "file", True, [])


def test_reasons_fit_into_tables(program, run):
    """Lines of a program's last words do not break them, nor what looks like markup."""
    ours = program(OURS, "sys.exit('no [/more] | here\\nand [bold]there')")
    summary = run(setting(ours))
    text = markdown(summary)
    (row,) = [line for line in text.splitlines() if line.startswith("| test/2/4KiB |")]
    assert row.endswith("…" + " |  |")
    assert "and [bold]there" in text
    shown = io.StringIO()
    command.show(summary, Console(file=shown, width=200))
    assert "no [/more] | here" in shown.getvalue()
    named = summary["cases"][0]["skipped"]
    named[OURS] = "a [/path] | b"
    assert "| a [/path] \\| b |" in markdown(summary)
    command.show(summary, Console(file=shown, width=200))
    assert "a [/path] | b" in shown.getvalue()


@pytest.mark.parametrize("text", ["{", "[]", '{"workers": 4}', '{"format": 0, "cases": []}'])
def test_markdown_of_something_else(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(LaunchError, match=r"summary\.json"):
        command.print_markdown(tmp_path)


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    here = machine.describe()["versions"]["commit"]
    monkeypatch.chdir(tmp_path)
    assert machine.describe()["versions"]["commit"] == here


def test_hosts_that_fail_half_way_leave_the_cases_before(made_up, tmp_path, monkeypatch):
    bench = Bench(BenchOptions(tmp_path / "out", quick=True), PlainDisplay(Console(quiet=True)))
    measure = Bench._measure_point

    def failing(self, running, point):
        if point.name == "second":
            raise NamespaceError("gone")
        measure(self, running, point)

    monkeypatch.setattr(Bench, "_measure_point", failing)
    cases = bench.run([two_points(made_up(OURS, 0.01))])["cases"]
    assert [case["case"] for case in cases] == ["test/2/first", "test/2/second"]
    assert [case["skipped"] for case in cases] == [{}, {OURS: "gone"}]
