"""Study files: what they say, and what is said of those that are wrong."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

import gearshift
from gearshift.launch import LaunchError
from gearshift.study.study_file import read_study

HERE = Path(__file__).parent
CLUSTER = """
name = "two"
[[hosts]]
name = "node"
count = 2
bandwidth = "1 Gbit/s"
"""
STUDY = """
title = "Lines"
question = "Which?"
strategies = ["all_reduce", "PS:ASP", "switch(at=0.5)"]
seeds = 2

[[use_cases]]
task = "study_task.py"
learning_rates = [1, 0.5]

[[clusters]]
file = "two.toml"
"""


@pytest.fixture
def folder(tmp_path):
    shutil.copy(HERE / "study_task.py", tmp_path)
    (tmp_path / "two.toml").write_text(CLUSTER)
    return tmp_path


def read(folder: Path, text: str):
    path = folder / "lines.toml"
    path.write_text(text)
    return read_study(path)


def test_a_task_says_what_the_file_leaves_out(folder):
    study = read(folder, STUDY)
    (case,) = study.use_cases
    assert (study.name, study.title, study.question) == ("lines", "Lines", "Which?")
    assert study.strategies == ("all_reduce", "ps:asp", "switch(at=0.5)")
    assert study.seeds == (1, 2)
    assert (case.name, case.title, case.samples, case.target) == (
        "study_task",
        "A line",
        320,
        -0.05,
    )
    assert (case.batch_size, case.rates, case.evaluations) == (4, (1.0, 0.5), 20)
    assert case.steps(2) == 40
    assert case.steps(3) == 27  # 320 samples are not whole steps of 3 workers
    assert case.evaluate_every(2) == 2
    workload = case.workload.document()
    assert workload["forward"] == pytest.approx(0.002) or workload["forward"] == "2 ms"
    assert {p["name"]: p["shape"] for p in workload["parameters"]} == {
        "weight": [1, 2],
        "bias": [1],
    }
    assert len(study.cells()) == 3 * 2 * 2
    assert len({cell.slug for cell in study.cells()}) == 12


def test_tasks_have_modules_of_the_same_name(folder):
    """Each finds its own, also where it goes to its folder; torch is imported once."""
    cases = []
    for name, target in (("first", 0.1), ("second", 0.2)):
        (folder / name / "more").mkdir(parents=True)
        text = (folder / "study_task.py").read_text()
        text += "from settings import TARGET\nfrom more.words import TITLE\n"
        text += "import os\nos.chdir(os.path.dirname(__file__))\n"
        (folder / name / "task.py").write_text(text)
        (folder / name / "settings.py").write_text(f"TARGET = {target}\n")
        (folder / name / "more" / "words.py").write_text(f"TITLE = '{name}'\n")
        cases.append(f'[[use_cases]]\nname = "{name}"\ntask = "{name}/task.py"\n')
    path, here = sys.path[:], Path.cwd()
    study = read(folder, STUDY.replace("[[use_cases]]", f"{''.join(cases)}[[use_cases]]"))
    assert [(c.title, c.target) for c in study.use_cases[:2]] == [("first", 0.1), ("second", 0.2)]
    assert sys.modules["torch"] is torch
    assert not {"settings", "more", "more.words"} & sys.modules.keys()
    assert (sys.path, Path.cwd()) == (path, here)


def test_the_file_overrides_the_task(folder):
    study = read(folder, STUDY.replace(
        'learning_rates = [1, 0.5]',
        'name = "own"\ntitle = "T"\nsamples = 64\ntarget = -1\nmetric = "m"\nbatch_size = 8\n'
        'forward = 0.5\nbackward = "1 s"\noptimizer = 0\nevaluations = 4'))  # fmt: skip
    (case,) = study.use_cases
    assert (case.name, case.title, case.samples, case.target) == ("own", "T", 64, -1.0)
    assert (case.metric, case.batch_size, case.evaluate_every(2)) == ("m", 8, 1)


def test_values_of_set_make_clusters(folder):
    study = read(folder, STUDY.replace(
        'file = "two.toml"',
        'file = "two.toml"\ntitle = "Some hosts"\n'
        'set = { bandwidth = ["100 Mbit/s", "1G"], workers = [2, 4], stragglers=1 }'))  # fmt: skip
    assert [cluster.title for cluster in study.clusters] == [
        "Some hosts, bandwidth=100 Mbit/s, workers=2",
        "Some hosts, bandwidth=100 Mbit/s, workers=4",
        "Some hosts, bandwidth=1 Gbit/s, workers=2",
        "Some hosts, bandwidth=1 Gbit/s, workers=4",
    ]
    assert study.clusters[0].name == "two-bandwidth-100Mbits-workers-2"
    last = study.clusters[-1].source.document()
    assert last["hosts"][0]["count"] == 4
    assert last["hosts"][0]["bandwidth"] == 125e6
    assert last["stragglers"] == [{"host": "node-3", "factor": 2.0}]


def test_values_of_set_are_numbers_as_in_cluster_files(folder):
    changed = 'file = "two.toml"\nset = { bandwidth = [1e6, "1G"], latency = 0.5, workers = 4 }'
    study = read(folder, STUDY.replace('file = "two.toml"', changed))
    hosts = [cluster.source.document()["hosts"][0] for cluster in study.clusters]
    assert [host["bandwidth"] for host in hosts] == [1e6, 125e6]
    assert [(host["latency"], host["count"]) for host in hosts] == [(0.5, 4)] * 2
    for wrong in ("bandwidth = true", "workers = 2.5", "workers = true"):
        with pytest.raises(LaunchError, match=r":13: clusters\[0\]\.set: .*is no"):
            read(folder, STUDY.replace(
                'file = "two.toml"', f'file = "two.toml"\nset = {{ {wrong} }}'))  # fmt: skip


def test_each_key_of_set_that_an_error_lists_is_taken(folder):
    def changed(text):
        return read(folder, STUDY.replace('file = "two.toml"', f'file = "two.toml"\nset = {text}'))

    path = folder / "two.toml"
    path.write_text(f'{path.read_text()}\n[[zones]]\nname = "1"\n')
    with pytest.raises(LaunchError, match="there are workers, bandwidth") as caught:
        changed("{ cores = 3 }")
    listed = str(caught.value).partition("there are ")[2].split(", ")
    assert len(listed) == len(set(listed)) >= 18
    values = dict.fromkeys(listed, "1")
    values |= {name: '"1 Gbit/s"' for name in listed if name.endswith("bandwidth")}
    values["hosts.servers"] = "0"
    for name in listed:
        more = ", stragglers = 1" if name == "straggler_factor" else ""
        for key in (name, f'"{name}"') if "." in name else (name,):  # a table, and its own name
            (cluster,) = changed(f"{{ {key} = {values[name]}{more} }}").clusters
            assert f"{name}=" in cluster.source.name
    with pytest.raises(LaunchError, match=r'no axis "hosts.cores"; there are workers'):
        changed("{ hosts.cores = 3 }")


def test_clocks_are_the_clusters_or_the_studys(folder):
    second = '[[clusters]]\nfile = "two.toml"\nname = "b"\nclocks = ["measured", "simulated"]\n'
    study = read(folder, STUDY + second)
    assert [cluster.clocks for cluster in study.clusters] == [
        ("simulated",),
        ("simulated", "measured"),
    ]
    first = read(folder, 'clocks = ["measured"]\n' + STUDY)
    assert first.clusters[0].clocks == ("measured",)


def test_a_use_case_may_leave_a_clock_out(folder):
    both = STUDY.replace('"two.toml"', '"two.toml"\nclocks = ["simulated", "measured"]')
    assert {cell.clock for cell in read(folder, both).cells()} == {"simulated", "measured"}
    one = both.replace("learning_rates", 'clocks = ["simulated"]\nlearning_rates')
    assert {cell.clock for cell in read(folder, one).cells()} == {"simulated"}


@pytest.mark.parametrize(("name", "cells"), [("strategies", 160), ("measured", 20)])
def test_the_examples_are_studies(name, cells):
    path = Path(gearshift.__file__).parents[2] / "examples" / "studies" / f"{name}.toml"
    study = read_study(path)
    assert (study.name, len(study.cells())) == (name, cells)
    assert len({cell.slug for cell in study.cells()}) == cells


WRONG = [
    ('seeds = 2', 'seeds = 0', r"lines.toml:5: seeds: must be at least 1"),
    ('seeds = 2', 'seeds = [1, 1]', r":5: seeds: must be at least one, each of them once"),
    ('seeds = 2', 'sedes = 2', r':5: sedes: unknown key; did you mean "seeds"'),
    ('strategies', 'strategy', r':4: strategy: unknown key; did you mean "strategies"'),
    ('"PS:ASP"', '"ps:fast"', r":4: strategies: .*fast"),
    ('"PS:ASP"', '"all_reduce"', r':4: strategies: "all_reduce" is there twice'),
    ('"study_task.py"', '"other.py"', r":8: use_cases\[0\].task: .*other.py: No such file"),
    ('"study_task.py"', '"study_task.py:f"', r':8: .*task: .*no function "f".*training'),
    ('"study_task.py"', '"study_task.py:unmeasured"', r":8: .*task: .*with evaluate="),
    ('learning_rates = [1, 0.5]', 'learning_rates = [0]', r":9: .*must be positive"),
    ('learning_rates = [1, 0.5]', 'forward = "2 parsecs"', r":9: .*forward: .*no time"),
    ('learning_rates = [1, 0.5]', 'forward = -1', r":9: .*\.forward: must be positive"),
    ('learning_rates = [1, 0.5]', 'backward = nan', r":9: .*\.backward: must be finite"),
    ('learning_rates = [1, 0.5]', 'learning_rates = []', r":9: .*learning_rates: is empty"),
    ('learning_rates = [1, 0.5]', 'workload = "w.toml"', r":9: .*w.toml does not exist"),
    ('learning_rates = [1, 0.5]', 'name = "a/b"', r":9: .*files are named by it"),
    ('learning_rates = [1, 0.5]', 'samples = 80_000_001',
     r":7: use_cases: entry 0, study_task: 80,000,001 samples are 10,000,001 steps of each worker"),
    ('file = "two.toml"', 'name = "x"', r":11: clusters\[0\].file: is missing"),
    ('file = "two.toml"', 'file = "3.toml"', r":12: clusters\[0\].file: .*does not exist"),
    ('file = "two.toml"', 'file = "two.toml"\nset = { cores = 3 }', r':13: .*no axis "cores"'),
    ('file = "two.toml"', 'file = "two.toml"\nset = { workers = 800_000 }',
     r":13: .*with workers=800000: hosts: to simulate 800000 processes takes at least 40960 GB of"),
    ('file = "two.toml"', 'file = "two.toml"\nset = { strategy = "ps" }', r":13: .*nothing of a"),
    ('file = "two.toml"', 'file = "two.toml"\nclocks = ["real"]', r':13: .*one of "simulated"'),
    ('file = "two.toml"', 'file = "two.toml"\n[[clusters]]\nfile = "two.toml"', r'called "two"'),
    ('seeds = 2', f'seeds = 1{400 * "0"}', r":5: seeds: a whole number is outside of -2\^63"),
    ('seeds = 2', 'seeds = [1, -9223372036854775809]', r":5: seeds\[1\]: a whole number is outsi"),
    ('learning_rates = [1, 0.5]', f'learning_rates = [1{400 * "0"}]', r":9: .*whole number is"),
    ('learning_rates = [1, 0.5]', f'target = 1{400 * "0"}', r":9: .*target: a whole number is"),
    ('learning_rates = [1, 0.5]', f'forward = 1{400 * "0"}', r":9: .*forward: a whole number is"),
    ('learning_rates = [1, 0.5]', 'forward = 2e9', r":9: .*forward: must be at most 1e\+09 s"),
    ('learning_rates = [1, 0.5]', 'batch_size = 3_000_000_000', r":9: .*batch_size: must be at mo"),
    ('[[use_cases]]', '[use_cases]', r":7: .*tables, each headed \[\[use_cases\]\]"),
    ('[[clusters]]\nfile = "two.toml"', '', r"clusters: is missing: a study has at least one"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "said"), WRONG)
def test_what_is_wrong_is_named_with_file_line_and_key(folder, right, wrong, said):
    assert right in STUDY
    with pytest.raises(LaunchError, match=said):
        read(folder, STUDY.replace(right, wrong))


def test_a_cluster_that_is_wrong_is_named(folder):
    (folder / "two.toml").write_text(CLUSTER.replace("count = 2", "count = -2"))
    with pytest.raises(LaunchError, match=r"lines.toml:12: clusters\[0\].file: .*two.toml:5"):
        read(folder, STUDY)


def test_a_cluster_file_is_no_study(folder):
    """Whose name may be anything, and is not what is wrong."""
    with pytest.raises(LaunchError, match=r":1: strategies: is missing"):
        read(folder, 'name = "4 hosts, 1 Gbit/s"\n[[hosts]]\nname = "node"\n')


def test_neither_study_nor_task_says_it(folder):
    task = folder / "study_task.py"
    task.write_text(task.read_text().replace("TARGET =", "AIM ="))
    with pytest.raises(LaunchError, match=r":7: use_cases\[0\].target: is missing: .*TARGET"):
        read(folder, STUDY)


@pytest.mark.parametrize(
    ("constant", "value", "said"),
    [
        ("SAMPLES", "3.2e2", "must be a whole number, at least 1, this is 320.0"),
        ("SAMPLES", "-5", "must be a whole number, at least 1, this is -5"),
        ("SAMPLES", "True", "must be a whole number, at least 1, this is True"),
        ("TARGET", "float('nan')", "must be a finite number, this is nan"),
        ("TARGET", "'0.9'", "must be a finite number, this is '0.9'"),
        ("TARGET", "10**60 * 10**340", f"must be a finite number, this is 1{59 * '0'}"),
        ("FORWARD", "[3]", 'must be a time, such as "3 ms", or a number of seconds, this is [3]'),
        ("TITLE", "3", "must be a text, this is 3"),
        ("METRIC", "''", "must be a text, this is ''"),
    ],
)
def test_constants_of_a_task_are_checked_as_keys_are(folder, constant, value, said):
    task = folder / "study_task.py"
    task.write_text(f"{task.read_text()}\n{constant} = {value}\n")
    with pytest.raises(LaunchError) as caught:
        read(folder, STUDY)
    where = f"{folder / 'lines.toml'}:8: use_cases[0].task: {constant} in {task}"
    assert str(caught.value) == f"{where} {said}"
