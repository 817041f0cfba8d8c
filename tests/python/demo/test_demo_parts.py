"""The parts of the demo that need no training: files, events, display, table, curves, refusals."""

from __future__ import annotations

import io
import json
import re
import tomllib

import pytest
from rich.console import Console
from rich.table import Table

from gearshift.cli import main
from gearshift.demo import STRATEGIES, driver, run_folder
from gearshift.demo.display import DisplaySink, LiveDisplay, PlainDisplay
from gearshift.demo.driver import DemoOptions
from gearshift.demo.events import Progress, decode
from gearshift.launch import LaunchError
from gearshift.report import show
from gearshift.report.files import claimed
from gearshift.report.fit import fitting, print_table
from gearshift.report.table import human_bytes, report_console, summary_table

PROGRESS = Progress(
    strategy="all_reduce",
    epoch=2,
    epochs=12,
    step=1234,
    loss=0.5,
    samples_per_second=9876.5,
    seconds=12.25,
)
EPOCH_END = Progress(**{**PROGRESS.__dict__, "test_accuracy": 0.9123})


def result(strategy: str) -> dict:
    switches = [{"step": 300, "seconds": 0.0042}] if strategy == "strategy_switch" else []
    return {
        "strategy": strategy,
        "test_accuracy": 0.9123,
        "seconds": 101.26,
        "samples_per_second": 12345.6,
        "bytes_sent_per_worker": 1.5e9,
        "mean_staleness": 2.345,
        "max_staleness": 7,
        "switches": switches,
        "switch_step": switches[0]["step"] if switches else None,
        "switch_seconds": switches[0]["seconds"] if switches else None,
    }


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished demo with made-up numbers."""
    for strategy in STRATEGIES:
        folder = run_folder.RunFolder(tmp_path / strategy)
        for step in (100, 200, 300, 400):
            row = {"time": step / 50, "epoch": 1, "step": step, "loss": 100 / step}
            folder.add_metrics(row)
            if step % 200 == 0:
                folder.add_metrics({**row, "test_accuracy": step / 500})
        folder.write_result(result(strategy))
    summary = {"workers": 4, "epochs": 2, "seed": 0, "runs": [result(s) for s in STRATEGIES]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


@pytest.mark.parametrize("event", [PROGRESS, EPOCH_END])
def test_events_survive_the_pipe(event):
    assert decode(event.encode().encode()) == event


@pytest.mark.parametrize("line", [b"", b"epoch 1", b"@gearshift-demo {", b"@gearshift-demo {}"])
def test_other_lines_are_no_events(line):
    assert decode(line) is None


def test_config_is_toml():
    config = {
        "strategy": 'a "quoted" name\n\x7fé',
        "epochs": 3,
        "rate": 1e-05,
        "big": float("inf"),
        "fast": True,
        "limit": None,
        "table": {"window": 2, "threshold": 0.5},
    }
    found = tomllib.loads(run_folder.to_toml(config))
    assert found == {key: value for key, value in config.items() if value is not None}


def test_config_of_a_folder_whose_name_is_no_text(tmp_path):
    run_folder.RunFolder(tmp_path).write_config({"out": "caf\udce9"})
    assert tomllib.loads((tmp_path / run_folder.CONFIG).read_text()) == {"out": "caf?"}


def test_a_new_run_replaces_the_files_of_an_old_one_only(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    run_folder.RunFolder(tmp_path).add_metrics({"step": 1})
    run_folder.RunFolder(tmp_path).add_metrics({"step": 2})
    assert run_folder.read_metrics(tmp_path) == [{"step": 2}]
    assert (tmp_path / "mine.txt").exists()
    assert run_folder.read_result(tmp_path) is None


def test_plain_display_is_brief():
    text = io.StringIO()
    display = PlainDisplay(Console(file=text, width=60))
    display.begin("all_reduce")
    sink = DisplaySink(display)
    for _ in range(50):
        sink.lines("0", "out", [PROGRESS.encode().encode()])
    sink.lines("0", "out", [EPOCH_END.encode().encode()])
    sink.lines("3", "err", [b"a [bold]warning"])
    display.end(None)
    assert text.getvalue().splitlines() == [
        "all_reduce: starting",
        f"all_reduce: {PROGRESS.text()}",
        f"all_reduce: {EPOCH_END.text()}",
        "[3] a [bold]warning",
        "all_reduce: done",
    ]


def test_live_display_shows_each_run():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    with LiveDisplay(console, STRATEGIES) as display:
        display.begin("all_reduce")
        display.progress(EPOCH_END)
        display.line("[1] something else")
        display.end(None)
        display.begin("parameter_server")
        display.progress(PROGRESS)
        display.end("rank 2 failed first")
    last = text.getvalue().rpartition("Fashion-MNIST")[2]
    rows = [line for line in last.splitlines() if any(name in line for name in STRATEGIES)]
    assert "done" in rows[0]
    assert "2/12" in rows[0]
    assert "91.23 %" in rows[0]
    assert "failed" in rows[1]
    assert "waiting" in rows[2]
    assert "[1] something else" in text.getvalue()


def test_names_of_algorithms_are_no_pictures(capsys):
    report_console().print("all_reduce:ring:4")
    assert "all_reduce:ring:4" in capsys.readouterr().out


def test_table_shows_what_was_measured_in_80_columns(finished):
    text = io.StringIO()
    summary = json.loads((finished / "summary.json").read_text())
    Console(file=text, width=80).print(summary_table(summary))
    rows = [line.split() for line in text.getvalue().splitlines() if "91.23" in line]
    shared = ["91.23", "%", "101.3", "12,346", "1.5", "GB", "2.35", "7"]
    assert rows[0] == ["all_reduce", *shared, "-", "-"]
    assert rows[2] == ["strategy_switch", *shared, "300", "4.2", "ms"]


def rows_of(text: str, strategy: str) -> list[list[str]]:
    """What stands behind the strategy's name, in each line that begins with it."""
    lines = [line.split() for line in text.splitlines()]
    return [line[1:] for line in lines if line[:1] == [strategy]]


@pytest.mark.parametrize("width", [30, 50, 70])
def test_narrow_terminals_get_every_number_in_parts(finished, width):
    summary = json.loads((finished / "summary.json").read_text())
    wide, narrow = io.StringIO(), io.StringIO()
    print_table(Console(file=wide, width=200), summary_table(summary))
    print_table(Console(file=narrow, width=width), summary_table(summary))
    assert max(map(len, narrow.getvalue().splitlines())) <= width
    for strategy in STRATEGIES:
        (row,) = rows_of(wide.getvalue(), strategy)
        parts = rows_of(narrow.getvalue(), strategy)
        assert len(parts) > 1
        assert [cell for part in parts for cell in part] == row
    assert narrow.getvalue().count("4 workers") == wide.getvalue().count("4 workers") == 1


def test_parts_of_a_table_repeat_what_tells_rows_apart():
    table = Table("workers", "bandwidth", "all_reduce", "ps:bsp")
    for workers in ("2", "4"):
        for bandwidth in ("1G", "10G"):
            table.add_row(workers, bandwidth, "fast", "slow")
    text = io.StringIO()
    print_table(Console(file=text, width=40), table)
    cells = [re.findall(r"\w+", line) for line in text.getvalue().splitlines()]
    for last in ("fast", "slow"):
        shown = [row[:2] for row in cells if row[2:] == [last]]
        assert shown == [["2", "1G"], ["2", "10G"], ["4", "1G"], ["4", "10G"]]


def test_bytes_for_people():
    assert [human_bytes(n) for n in (0, 999, 1234, 5.5e6, 2e15)] == [
        *("0 B", "999 B", "1.2 kB", "5.5 MB", "2000.0 TB")
    ]


def test_report_of_a_finished_demo(finished, capsys):
    assert show(finished) == 0
    assert "strategy_switch" in capsys.readouterr().out
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_report_without_a_demo(tmp_path, capsys):
    assert show(tmp_path) == 2
    told = capsys.readouterr().err
    assert "run `gearshift demo" in told
    assert f"or `gearshift study FILE --out {tmp_path}` first" in told
    (tmp_path / "summary.json").write_text("{}")
    assert show(tmp_path) == 2
    assert "is damaged" in capsys.readouterr().err


def test_report_names_what_is_wrong(finished, capsys):
    """The table comes all the same, where there is one."""
    metrics = finished / STRATEGIES[1] / run_folder.METRICS
    for line, told in (('{"time": 1, "ste', "no JSON"), ('{"time": 1}', "step is missing")):
        metrics.write_text(metrics.read_text().splitlines()[0] + "\n" + line + "\n")
        assert show(finished) == 2
        shown = capsys.readouterr()
        assert "strategy_switch" in shown.out
        assert f"{metrics}:2: {told}" in shown.err
        assert "summary.json" not in shown.err
    metrics.unlink()
    assert show(finished) == 2
    assert f"{metrics} is missing" in capsys.readouterr().err
    assert show(finished / "summary.json") == 2
    assert "summary.json/summary.json: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("width", [30, 45, 200])
def test_a_table_that_is_too_wide_becomes_several(width):
    """Whose numbers are all there."""
    table = Table(title="title", caption="caption", box=None, pad_edge=False)
    headers = ["strategy", *(f"{n}th\nvalue" for n in range(6))]
    for header in headers:
        table.add_column(header, no_wrap=True)
    for name in ("all_reduce", "ps:asp"):
        table.add_row(name, *(f"{name[0]}{n}.123 ms" for n in range(6)))
    text = io.StringIO()
    console = Console(file=text, width=width)
    parts = fitting(table, console, 1)
    for part in parts:
        console.print(part)
    shown = text.getvalue()
    assert (len(parts) > 1) == (width < 100)
    assert "…" not in shown
    assert all(f"{letter}{n}.123 ms" in shown for letter in "ap" for n in range(6))
    assert shown.count("all_reduce") == len(parts)
    assert (shown.count("title"), shown.count("caption")) == (1, 1)


def test_report_without_matplotlib_shows_the_table(finished, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert show(finished) == 2
    shown = capsys.readouterr()
    assert "strategy_switch" in shown.out
    assert "pip install 'gearshift[demo]'" in shown.err


def test_numbers_that_are_none_are_null(tmp_path):
    """As of a loss that ran away; JSON has no NaN."""
    folder = run_folder.RunFolder(tmp_path)
    folder.add_metrics({"time": 1.0, "step": 1, "loss": float("nan")})
    folder.write_result({"loss": float("inf"), "more": [1.5, float("-inf")]})
    assert (tmp_path / run_folder.METRICS).read_text() == '{"time": 1.0, "step": 1, "loss": null}\n'
    assert run_folder.read_result(tmp_path) == {"loss": None, "more": [1.5, None]}


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Runs the demo with made-up runs; those of `failing` end with a code."""

    def run(*strategies: str, failing: dict[str, int]) -> int:
        def run_one(options, strategy, display):
            run_folder.RunFolder(options.out / strategy).add_metrics(
                {"time": 1.0, "epoch": 1, "step": 400, "loss": 0.5, "test_accuracy": 0.9}
            )
            return failing.get(strategy, 0), None if strategy in failing else result(strategy)

        monkeypatch.setattr(driver, "_run_one", run_one)
        monkeypatch.setattr(driver, "_check_data", lambda folder: None)
        options = DemoOptions(out=tmp_path / "out").with_strategies(",".join(strategies))
        return driver.run_demo(options)

    return run


@pytest.mark.parametrize(("code", "ends_with"), [(130, 130), (0, 1)])
def test_runs_before_one_that_fails_are_shown(demo, tmp_path, capsys, code, ends_with):
    """Ctrl-C in the second, say, or no result of it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "curves.png").write_text("old")
    assert demo(*STRATEGIES, failing={STRATEGIES[0]: 7}) == 7
    assert not (tmp_path / "out" / "curves.png").exists()
    assert demo(*STRATEGIES, failing={STRATEGIES[1]: code}) == ends_with
    shown = capsys.readouterr().out
    assert f"the run of {STRATEGIES[1]} failed" in shown
    assert "91.23 %" in shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [run["strategy"] for run in summary["runs"]] == [STRATEGIES[0]]
    assert summary["failed"] == STRATEGIES[1]
    assert show(tmp_path / "out") == 0


def test_a_strategy_that_is_named_twice_runs_once(demo, tmp_path):
    assert demo(STRATEGIES[0], STRATEGIES[0], failing={}) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["runs"]) == 1


def test_one_demo_at_a_time_in_a_folder(demo, tmp_path):
    with claimed(tmp_path / "out"), pytest.raises(LaunchError, match="another run is writing"):
        demo(STRATEGIES[0], failing={})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "--workers 0"),
        (["--epochs", "0"], "--epochs 0"),
        (["--limit", "3"], "--limit 3"),
        (["--strategies", "all_reduce,magic"], "magic given; choose from all_reduce"),
        (["--data", "/no/such/folder"], "apt-get install dataset-fashion-mnist"),
    ],
)
def test_refusals(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        main(["demo", "--out", str(tmp_path / "out"), *arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
