"""Fitting a link's line, and what the command writes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

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
