"""Fitting a link's line, and what the command writes."""

from __future__ import annotations

import errno
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gearshift.cli import main
from gearshift.launch.verdict import Outcome
from gearshift.sim.calibration import command
from gearshift.sim.calibration.fit import fit_line

pytest.importorskip("gearshift._sim")

SIZES = [64, 1024, 16384, 262144, 4194304, 16777216]
ONE_WAY = [25e-6 + n / 1e9 for n in SIZES]


def test_line_of_exact_points() -> None:
    line = fit_line(SIZES, ONE_WAY)
    assert line.latency == pytest.approx(25e-6, rel=1e-6)
    assert line.bandwidth == pytest.approx(1e9, rel=1e-6)


def test_one_disturbed_point_moves_nothing() -> None:
    disturbed = [*ONE_WAY]
    disturbed[2] *= 10
    line = fit_line(SIZES, disturbed)
    assert line.latency == pytest.approx(25e-6, rel=0.01)
    assert line.bandwidth == pytest.approx(1e9, rel=0.01)


def test_latency_is_not_negative() -> None:
    line = fit_line([1e6, 2e6, 4e6], [0.5e-3, 1.9e-3, 4.1e-3])
    assert line.latency >= 0
    assert line.bandwidth > 0


def test_links_between_hosts_become_a_cluster_file(tmp_path: Path) -> None:
    measured = tmp_path / "links.json"
    link = {"rank": 1, "same_host": False, "sizes": SIZES, "seconds": ONE_WAY, "per_message": 4e-6}
    slower = link | {"rank": 2, "seconds": [2 * t for t in ONE_WAY]}
    work = {"reduce_bandwidth": 8e9, "update_bandwidth": 2e9, "copy_bandwidth": 9e9}
    measured.write_text(command.json.dumps({"links": [link, slower], "work": work}))
    out = tmp_path / "cluster.toml"
    assert command.run((), measured, out) == 0
    defaults = tomllib.loads(out.read_text())["defaults"]
    assert defaults["bandwidth"] == pytest.approx(0.5e9, rel=0.01)
    assert defaults["latency"] == pytest.approx((50e-6 - 8e-6) / 2, rel=0.01)
    assert defaults["per_message"] == pytest.approx(4e-6)
    assert defaults["update_bandwidth"] == 2e9


def test_a_file_whose_name_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured, out = tmp_path / "links.json", tmp_path / "caf\udce9.toml"
    measured.write_text(command.json.dumps({"work": WORK, "links": [LINK]}))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--measured", str(measured), "--out", str(out)])
    assert ended.value.code in (None, 0), capsys.readouterr()
    assert tomllib.loads(out.read_text())["name"] == "caf?"


def test_a_link_that_is_no_line_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token bucket lets small messages pass ten times as fast as large ones."""
    measured = tmp_path / "links.json"
    sizes = [64, 256, 1024, 16384, 262144, 1048576, 4194304, 16777216]
    for slow in (1e9, 1e8):
        times = [25e-6 + n / (slow if n > 262144 else 1e9) for n in sizes]
        document = {"work": WORK, "links": [LINK | {"sizes": sizes, "seconds": times}]}
        measured.write_text(command.json.dumps(document))
        assert command.run((), measured, tmp_path / "cluster.toml", force=True) == 0
        told = capsys.readouterr().err
        assert ("at 3 of 8 sizes" in told) == (slow == 1e8)
    assert "bandwidth: 16777216 bytes came at 100.0 MB/s" in told


def test_this_machine_can_be_simulated(tmp_path: Path) -> None:
    from gearshift.sim.inputs import read_cluster

    out = tmp_path / "here.toml"
    assert command.run(["shm", "loopback"], None, out) == 0
    source = read_cluster(out)
    assert command.extension.describe_cluster(source.text, source.name)["workers"] == 2
    assert source.document()["defaults"]["local_bandwidth"] > 0


def test_the_folder_of_the_file_is_there_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "links.json"
    measured.write_text('{"links": [], "work": {"copy_bandwidth": 9e9}}')
    out = tmp_path / "new" / "cluster.toml"
    assert command.run((), measured, out) == 0
    assert out.exists()
    assert command.run(["shm"], None, measured / "cluster.toml") == 2
    assert "gearshift calibrate: " in capsys.readouterr().err
    assert command.run(["shm"], None, tmp_path) == 2
    told = capsys.readouterr()
    assert "Is a directory" in told.err
    assert "latency" not in told.out


LINK = {"rank": 1, "same_host": False, "sizes": SIZES, "seconds": ONE_WAY, "per_message": 4e-6}
WORK = {"copy_bandwidth": 9e9}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no JSON: "),
        ("[]", "must hold an object"),
        ('{"links": []}', "work: must hold rates"),
        ('{"work": {"copy_bandwidth": NaN}, "links": []}', "work: must hold rates"),
        ('{"work": {}}', "links: must be a list"),
        (command.json.dumps({"work": WORK, "links": [LINK, 7]}), "links[1]: is not"),
        (
            command.json.dumps({"work": WORK, "links": [LINK | {"seconds": ONE_WAY[1:]}]}),
            "links[0].seconds: is not",
        ),
        (
            command.json.dumps({"work": WORK, "links": [LINK | {"sizes": [64] * 6}]}),
            "links[0].sizes: is not",
        ),
        (
            command.json.dumps({"work": WORK, "links": [LINK | {"per_message": 0}]}),
            "links[0].per_message: is not",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_key(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "links.json"
    measured.write_text(text)
    assert command.run((), measured, tmp_path / "cluster.toml") == 2
    assert f"gearshift calibrate: {measured}: {told}" in capsys.readouterr().err
    assert not (tmp_path / "cluster.toml").exists()


def test_a_file_without_rates_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "links.json"
    measured.write_text(command.json.dumps({"work": {}, "links": [LINK]}))
    assert command.run((), measured, tmp_path / "cluster.toml") == 2
    assert f"{measured}: work: must hold rates" in capsys.readouterr().err


def test_files_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.run((), Path("none.json"), Path("c.toml")) == 2
    assert capsys.readouterr().err == "gearshift calibrate: none.json: No such file or directory\n"
    Path("file").touch()
    assert command.run(["shm"], None, Path("file/x/c.toml")) == 2
    assert "gearshift calibrate: file/x: Not a directory" in capsys.readouterr().err
    assert command.run(["shm"], None, Path("/proc/c.toml")) == 2
    assert "gearshift calibrate: /proc/c.toml: No such file" in capsys.readouterr().err
    assert not Path("c.toml").exists()


def test_a_link_within_a_host_is_none_between_hosts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = LINK | {"rank": 2, "same_host": True}
    measured = tmp_path / "links.json"
    measured.write_text(command.json.dumps({"work": WORK, "links": [LINK, near]}))
    assert command.run((), measured, tmp_path / "cluster.toml") == 0
    shown = capsys.readouterr().out
    assert "rank 0 and rank 1: latency" in shown
    assert "rank 0 and rank 2 of the same host: latency" in shown
    assert "hosts:" not in shown


@pytest.mark.parametrize(
    ("launcher", "file", "told"),
    [
        ([], "links.json", "one process has no link"),
        (["-m", "gearshift", "run", "-n", "2"], "/proc/x/links.json", "/proc/x: No such file"),
    ],
)
def test_a_probe_that_cannot_measure_says_so(
    launcher: list[str], file: str, told: str, tmp_path: Path
) -> None:
    command_line = [sys.executable, *launcher, "-m", "gearshift.sim.calibration.probe", file]
    done = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"gearshift.sim.calibration.probe: {told}" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [["loopback", "shm"], ["shm", "loopback"]])
def test_shared_memory_gives_the_local_keys_in_any_order(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"shm": [t / 10 for t in ONE_WAY], "loopback": ONE_WAY}
    cost = {"shm": 0.1e-6, "loopback": 4e-6}

    def measure(name: str) -> dict[str, object]:
        link = LINK | {"same_host": True, "seconds": times[name], "per_message": cost[name]}
        return {"work": WORK, "links": [link]}

    monkeypatch.setattr(command, "_measure", measure)
    out = tmp_path / "here.toml"
    assert command.run(given, None, out) == 0
    defaults = tomllib.loads(out.read_text())["defaults"]
    assert defaults["local_bandwidth"] == pytest.approx(10e9, rel=0.01)
    assert defaults["per_message"] == pytest.approx(4e-6)


def test_neighbours_on_a_host_say_nothing_of_messages_between_hosts(tmp_path: Path) -> None:
    """The link to rank 2, on the host of rank 0, is measured last."""
    near = LINK | {"rank": 2, "same_host": True, "per_message": 0.1e-6}
    measured = tmp_path / "links.json"
    measured.write_text(command.json.dumps({"work": WORK, "links": [LINK, near]}))
    out = tmp_path / "cluster.toml"
    assert command.run((), measured, out) == 0
    assert tomllib.loads(out.read_text())["defaults"]["per_message"] == pytest.approx(4e-6)


def test_what_cannot_be_written_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "links.json"
    measured.write_text(command.json.dumps({"work": WORK, "links": [LINK]}))

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert command.run((), measured, tmp_path / "cluster.toml") == 2
    told = capsys.readouterr()
    assert "cluster.toml: No space left on device" in told.err
    assert "per_message = 4e-06" in told.out


def test_a_file_that_is_there_is_replaced_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody may have completed it; an empty one holds nothing."""
    measured, out = tmp_path / "links.json", tmp_path / "cluster.toml"
    measured.write_text(command.json.dumps({"work": WORK, "links": [LINK]}))
    out.touch()
    arguments = ["calibrate", "--measured", str(measured), "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (None, 0)
    out.write_text("# completed by hand\n")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"{out}: is there already" in capsys.readouterr().err
    assert out.read_text() == "# completed by hand\n"
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--force"])
    assert ended.value.code in (None, 0)
    assert "defaults" in tomllib.loads(out.read_text())


def test_measuring_and_what_was_measured_are_not_both_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured, out = tmp_path / "links.json", tmp_path / "cluster.toml"
    measured.write_text(command.json.dumps({"work": WORK, "links": [LINK]}))
    assert command.run(["shm"], measured, out) == 2
    assert "--transport and --measured: choose one" in capsys.readouterr().err
    assert not out.exists()


def test_a_probe_that_is_interrupted_shows_no_traceback(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from gearshift.sim.calibration import probe
def interrupted(path):
    raise KeyboardInterrupt
probe._measure = interrupted
probe.main(Path("links.json"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_calibration_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "launch", lambda options: Outcome(130, None))
    assert command.run(["shm"], None, tmp_path / "cluster.toml") == 130
    assert capsys.readouterr().err == ""


def test_unknown_transport_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["ib"], None, tmp_path / "x.toml") == 2
    assert "choose of shm, loopback" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["name = 'a cluster'", "{}", '{"links": [{}], "work": {"a": 1}}'])
def test_another_file_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    measured = tmp_path / "wrong.json"
    measured.write_text(text)
    out = tmp_path / "cluster.toml"
    assert command.run((), measured, out) == 2
    assert f"gearshift calibrate: {measured}: " in capsys.readouterr().err
    assert not out.exists()
