"""The workload's file: what it says, what comes back, and what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from gearshift.errors import Error, InvalidArgument
from gearshift.sim.durations import format_duration, parse_duration
from gearshift.sim.workload import Variability, Workload, WorkloadParameter

WORKLOAD = Workload(
    name='A "net"\twith\x7fodd letters: é',
    batch_size=32,
    forward_seconds=0.095,
    backward_seconds=0.19,
    optimizer_seconds=0.004,
    parameters=(
        WorkloadParameter("conv.weight", (64, 3, 7, 7), "float32", 0.19),
        WorkloadParameter("scale", (), "bfloat16", 0.0000123),
        WorkloadParameter("fc.bias", (10,), "float64", 0),
    ),
    variability=Variability("empirical", factors=(0.98, 1.0, 1.02)),
)
MINIMAL = """
forward = 0.1
backward = "200 ms"
parameters = [{name = "a", shape = [30]}, {name = "b", shape = [10], ready = "1 ms"}]
"""


@pytest.mark.parametrize("name", ["w.toml", "w.json", "new/folder/w.toml"])
@pytest.mark.parametrize(
    "variability",
    [
        WORKLOAD.variability,
        Variability(),
        Variability("normal", 0.1),
        Variability("log-normal", 0.25),
    ],
)
def test_what_is_saved_is_loaded(tmp_path: Path, name: str, variability: Variability) -> None:
    workload = Workload(**{**vars(WORKLOAD), "variability": variability})
    workload.save(tmp_path / name, "two\nlines")
    assert Workload.load(tmp_path / name) == workload


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    WORKLOAD.save(tmp_path / "w.toml", "made by a test")
    text = (tmp_path / "w.toml").read_text()
    assert text.startswith("# made by a test\n")
    read = tomllib.loads(text)
    assert list(read) == [
        *("name", "batch_size", "forward", "backward", "optimizer", "parameters", "variability")
    ]
    assert (read["forward"], read["backward"]) == ("95 ms", "190 ms")
    assert read["parameters"][0] == {
        "name": "conv.weight",
        "shape": [64, 3, 7, 7],
        "dtype": "float32",
        "ready": "190 ms",
    }
    assert read["variability"] == {"kind": "empirical", "factors": [0.98, 1.0, 1.02]}


def test_sizes() -> None:
    assert WORKLOAD.elements == 64 * 3 * 49 + 1 + 10
    assert WORKLOAD.parameter_bytes == 64 * 3 * 49 * 4 + 2 + 80


def test_what_a_short_file_leaves_open(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(MINIMAL)
    workload = Workload.load(path)
    assert (workload.name, workload.batch_size, workload.optimizer_seconds) == ("short", 1, 0)
    assert workload.variability == Variability()
    # Where the file does not say, gradients come from the last to the first by their bytes.
    assert [p.ready_seconds for p in workload.parameters] == [0.2, 0.001]
    assert workload.parameters[0].dtype == "float32"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("forward = 0.1", "", "forward: is missing"),
        ("forward = 0.1", "forward = true", "forward: must be a time"),
        ("forward = 0.1", 'forward = "1 hour"', 'forward: "1 hour" is no time'),
        ("forward = 0.1", "forward = 0", "forward: must be positive"),
        ("forward = 0.1", "forward = nan", "forward: must be finite"),
        ("forward = 0.1", f"forward = 1{400 * '0'}", "forward: must be finite, this is inf"),
        ("forward = 0.1", "forward = 2e9", r"forward: must be at most 1e\+09 s, this is 2e\+09 s"),
        ("forward = 0.1", f"forward = {5000 * '1'}", "no TOML: a whole number is outside of"),
        ("forward = 0.1", f"forward = {9000 * '['}", "no TOML: is nested too deeply"),
        ("forward = 0.1", "forward = 1\nbatch_size = 2147483648", "batch_size: must be at most"),
        ("forward = 0.1", "forward = 1\nforwart = 1", 'forwart: no such key.*mean "forward"'),
        ("forward = 0.1", "forward = 1\nbatch_size = 0", "batch_size: must be positive"),
        ("forward = 0.1", "forward = 1\nbatch_size = 1.5", "batch_size: must be a whole number"),
        ("forward = 0.1", "forward", "no TOML: .*line 2"),
        ("[30]", "[3, -1]", r"parameters\[0\].shape\[1\]: must be positive"),
        ("[30]", '["x"]', r"parameters\[0\].shape\[0\]: must be a whole number"),
        ('"b"', '"a"', r'parameters\[1\].name: "a" is the name of another'),
        ("[10]", '[10], dtype = "int32"', r'parameters\[1\].dtype: "int32" is none of'),
        ("[10]", '[10], dtype = "float8"', r'parameters\[1\].dtype: "float8" is none of'),
        ('"1 ms"', '"201 ms"', r"parameters\[1\].ready: .*after backward"),
        ('"1 ms"', "1, size = 3", r"parameters\[1\].size: no such key"),
        ("parameters = [", "parameters = []\nmore = [", "more: no such key"),
    ],
)
def test_refusals_name_file_and_key(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(MINIMAL.replace(before, after, 1))
    with pytest.raises(InvalidArgument, match=rf"^{path}: {message}"):
        Workload.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "variability.kind: is missing"),
        ('kind = "gamma"', 'variability.kind: "gamma" is none of'),
        ('kind = "normal"', "variability.spread: is missing"),
        ('kind = "normal"\nspread = -1', "variability.spread: must not be negative"),
        ('kind = "constant"\nspread = 1', "variability.spread: no such key"),
        ('kind = "empirical"\nfactors = []', "variability.factors: .*at least one"),
        ('kind = "empirical"\nfactors = [1, 0]', r"variability.factors\[1\]: must be positive"),
    ],
)
def test_refusals_of_variability(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f"{MINIMAL}[variability]\n{text}\n")
    with pytest.raises(InvalidArgument, match=rf"^{path}: {message}"):
        Workload.load(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"none\.toml: No such file"):
        Workload.load(tmp_path / "none.toml")
    (tmp_path / "bad.json").write_text(json.dumps([1]))
    with pytest.raises(InvalidArgument, match=r"bad\.json: the file: must be a table"):
        Workload.load(tmp_path / "bad.json")
    with pytest.raises(Error, match=r"w\.toml"):
        WORKLOAD.save(tmp_path / "bad.json" / "w.toml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("190 ms", 0.19),
        ("120us", 120e-6),
        ("3 \u00b5s", 3e-6),
        ("1.2 s", 1.2),
        ("1e3 ns", 1e-6),
        ("2 min", 120),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "ms", "5", "5 minutes", "1,5 ms", "1 ms 2 us", "nan s"])
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_duration(text)


def test_texts_of_durations_keep_order_and_digits() -> None:
    times = sorted([0, 1e-12, 3.3e-8, 9.999999e-4, 1e-3, 0.9999999, 1, 1.00000049, 12345.678, 2e7])
    read = [parse_duration(format_duration(t)) for t in times]
    assert read == sorted(read)
    assert read == pytest.approx(times, rel=1e-5, abs=1e-12)


def test_spread() -> None:
    assert Variability("empirical", factors=(2, 4)).relative_spread() == pytest.approx(1 / 3)
    assert Variability("normal", 0.1).relative_spread() == 0.1
    assert Variability("log-normal", 0.1).relative_spread() == pytest.approx(0.1, rel=0.01)
    assert Variability().relative_spread() == 0
