"""The checks in tools/ find what they are there to find, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(tool: str, root: Path) -> tuple[int, str]:
    """Exit status and output of a check over the checkout `root`."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, root], capture_output=True, text=True, timeout=60
    )
    assert not done.stderr
    return done.returncode, done.stdout


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("tool", ["check_layers.py", "check_tests_registered.py", "check_sizes.py"])
def test_this_checkout_is_clean(tool: str) -> None:
    assert run(tool, ROOT) == (0, "")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("src/ps/shard.cc", '#include "gearshift/codec/codec.h"'),
        ("src/ps/shard.cc", '#include "ps/shard.h"'),
        ("src/sim/world.cc", "#include <gearshift/base/ids.h>"),  # exposed from far below
        ("src/sim/world.cc", "#include <simgrid/s4u.hpp>"),
        ("src/group/group.cc", "// std::mutex would not do; nor sleep(1)"),
        ("src/group/group.cc", 'log("sleep(1) in std::thread");'),
        ("src/group/group.cc", "std::lock_guard<Monitor> held(*monitor);"),
        ("src/group/group.cc", "scheduler.sleep_for(pause);"),
        ("include/gearshift/torch/a.h", "#include <torch/torch.h>"),
        ("include/gearshift/torch/a.h", '#include "gearshift/strategy/replica.h"'),
        ("src/base/os_scheduler.cc", "#include <thread>"),
        ("src/transport/tcp/engine.cc", "std::mutex mutex_;"),
        ("src/rendezvous/tcp/server.cc", "#include <sys/socket.h>"),
        ("python/gearshift/torch/hooks.py", "import torch"),
        ("python/gearshift/demo/train.py", "from torch import nn"),
        ("python/gearshift/study/tasks/text.py", "from torch import nn"),
        ("python/gearshift/cli.py", "from .torch import distribute"),
    ],
)
def test_layers_accepts(tmp_path: Path, file: str, line: str) -> None:
    assert run("check_layers.py", write(tmp_path, {file: line + "\n"})) == (0, "")


@pytest.mark.parametrize(
    ("file", "line", "offence"),
    [
        ("src/base/ids.cc", '#include "gearshift/group/group.h"', "base may not include group"),
        ("include/gearshift/transport/a.h", "#include <gearshift/ps/shard.h>", "include ps"),
        ("src/strategy/a.cc", '#include "gearshift/runtime/session.h"', "include runtime"),
        ("src/runtime/a.cc", '#include "gearshift/sim/world.h"', "include sim"),
        ("src/collectives/a.cc", '#  include  "gearshift/membership/monitor.h"', "membership"),
        ("src/ps/a.cc", '#include "transport/tcp/socket.h"', "private header of transport"),
        ("include/gearshift/ps/a.h", '#include "ps/impl.h"', "public header includes a private"),
        ("src/ps/a.cc", "#include <gearshift/gearshift.h>", "umbrella"),
        ("src/runtime/a.cc", "#include <torch/torch.h>", "libtorch (torch/torch.h) outside"),
        ("include/gearshift/base/a.h", "#include <c10/util/Half.h>", "libtorch"),
        ("src/runtime/a.cc", '#include "gearshift/torch/distribute.h"', "may not include torch"),
        ("include/gearshift/torch/a.h", '#include "strategy/memory.h"', "includes a private"),
        ("src/utils/a.cc", "", "'utils' is no module"),
        ("src/group/a.cc", "std::thread worker(f);", "std::thread"),
        ("src/group/a.cc", "std::this_thread::yield();", "std::this_thread"),
        ("src/ps/a.cc", "std::recursive_mutex m;", "std::recursive_mutex"),
        ("include/gearshift/ps/a.h", "std::condition_variable c;", "std::condition_variable"),
        ("src/membership/a.cc", "auto t = std::chrono::steady_clock::now();", "steady_clock::now"),
        ("src/membership/a.cc", "auto t = Clock::system_clock::now();", "system_clock::now"),
        ("src/strategy/a.cc", "/* wait */ usleep(10);", "usleep"),
        ("src/sim/a.cc", "sleep (1);", "sleep"),
        ("src/collectives/a.cc", "#include <thread>", "<thread>"),
        ("src/codec/a.cc", "#include <sys/socket.h>", "<sys/socket.h>"),
        ("src/rendezvous/memory/store.cc", "std::mutex m;", "std::mutex"),
        ("src/base/ids.cc", "std::mutex m;", "std::mutex"),
        ("python/gearshift/cli.py", "import torch", "imports torch"),
        ("python/gearshift/run/a.py", "def f():\n    from torch.nn import Linear", "torch.nn"),
        ("python/gearshift/a.py", "import numpy, torch.optim as o", "torch.optim"),
        ("python/gearshift/study/a.py", "import torch", "imports torch"),
    ],
)
def test_layers_refuses(tmp_path: Path, file: str, line: str, offence: str) -> None:
    status, output = run("check_layers.py", write(tmp_path, {file: line + "\n"}))
    assert status == 1
    assert output.startswith(f"{file}:")
    assert offence in output


PYPROJECT = '[tool.pytest.ini_options]\ntestpaths = ["tests/python"]\n'
FOLDERS = "gearshift_add_test_folders()\n"
A_TEST = "def test_it() -> None:\n    pass\n"


def registration(root: Path, files: dict[str, str]) -> tuple[int, str]:
    base = {
        "pyproject.toml": PYPROJECT,
        "tests/CMakeLists.txt": FOLDERS,
        "tests/unit/CMakeLists.txt": FOLDERS,
    }
    return run("check_tests_registered.py", write(root, base | files))


def test_registration_accepts(tmp_path: Path) -> None:
    files = {
        "tests/unit/base/CMakeLists.txt": "gearshift_test(a SOURCES ids_test.cc sub/b_test.cc)\n",
        "tests/unit/base/ids_test.cc": "",
        "tests/unit/base/sub/b_test.cc": "",
        "tests/unit/base/deep/CMakeLists.txt": "gearshift_test(c SOURCES c_test.cc)\n",
        "tests/unit/base/deep/c_test.cc": "",
        "tests/python/test_a.py": A_TEST,
        "tests/python/deep/test_b.py": "class TestB:\n    def test_it(self): ...\n",
        "tests/python/conftest.py": "",
        "tests/python/helpers.py": "def make() -> None:\n    pass\n",
    }
    files["tests/unit/base/CMakeLists.txt"] += "add_subdirectory(deep)\n"
    assert registration(tmp_path, files) == (0, "")


@pytest.mark.parametrize(
    ("files", "offence"),
    [
        ({"tests/unit/base/ids_test.cc": ""}, "tests/unit/base/ids_test.cc: in no CMakeLists.txt"),
        (
            {
                "tests/unit/base/CMakeLists.txt": "# gearshift_test(a SOURCES ids_test.cc)\n",
                "tests/unit/base/ids_test.cc": "",
            },
            "tests/unit/base/ids_test.cc: in no",
        ),
        (
            {
                "tests/unit/base/CMakeLists.txt": "",
                "tests/unit/base/deep/CMakeLists.txt": "gearshift_test(a SOURCES a_test.cc)\n",
                "tests/unit/base/deep/a_test.cc": "",
            },
            "deep/a_test.cc: in no",
        ),
        ({"tests/python/checks.py": A_TEST}, "tests/python/checks.py: pytest collects only"),
        ({"tests/multiprocess/test_run.py": A_TEST}, "test_run.py: pytest collects only"),
        ({"tests/python/test_empty.py": "X = 1\n"}, "test_empty.py: has no test in it"),
        ({"tests/python/conftest.py": "collect_ignore = ['test_a.py']\n"}, "collect_ignore"),
        (
            {
                "pyproject.toml": PYPROJECT + 'addopts = ["--ignore=tests/python/old"]\n',
                "tests/python/old/test_a.py": A_TEST,
            },
            "left out by pytest's options",
        ),
        ({"pyproject.toml": '[tool.pytest.ini_options]\ntestpaths = ["x"]\n'}, "testpaths"),
    ],
)
def test_registration_refuses(tmp_path: Path, files: dict[str, str], offence: str) -> None:
    status, output = registration(tmp_path, files)
    assert status == 1
    assert offence in output


def test_sizes_accepts_what_just_fits(tmp_path: Path) -> None:
    function = "def f(\n    a: int,\n) -> None:\n" + "    pass\n" * 60
    files = {"src/base/a.cc": "//\n" * 500, "python/gearshift/a.py": function}
    assert run("check_sizes.py", write(tmp_path, files)) == (0, "")


@pytest.mark.parametrize(
    ("file", "text", "offence"),
    [
        ("src/base/a.cc", "//\n" * 501, "501 lines"),
        ("tests/python/test_a.py", "def f() -> None:\n" + "    pass\n" * 61, "f has 61 lines"),
    ],
)
def test_sizes_refuses(tmp_path: Path, file: str, text: str, offence: str) -> None:
    status, output = run("check_sizes.py", write(tmp_path, {file: text}))
    assert status == 1
    assert offence in output


def test_set_up_without_root_names_the_packages_to_install(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    commands = {
        "dpkg-query": "case $* in *cmake*) echo 'install ok installed' ;; *) exit 1 ;; esac",
        "id": "echo 1000",
        "sudo": "exit 1",
        "apt-get": f"touch {tmp_path}/touched",
    }
    for name, body in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", tmp_path / "tools" / "setup.sh"],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "need root" in done.stderr
    missing = done.stderr.splitlines()[0]
    assert "ninja-build" in missing
    assert " cmake" not in missing
    assert "run: sudo apt-get install -y --no-install-recommends" in done.stderr
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / ".venv").exists(), "it stopped before it had done half"


STEPS = """
set -uo pipefail
source {tools}/steps.sh
lane() {{ {lane}; }}
meanwhile lane
step here {here}
rejoin
ok fails || echo "not ok"
summary
"""


def steps(tmp_path: Path, lane: str, here: str) -> subprocess.Popen[str]:
    """A script whose step `here` runs beside the steps of `lane`."""
    script = tmp_path / "script.sh"
    script.write_text(STEPS.format(tools=ROOT / "tools", lane=lane, here=here))
    return subprocess.Popen(
        ["bash", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_step_that_fails_beside_others_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "build" / "logs").mkdir(parents=True)
    others_are_done = "sh -c 'until grep -q ^passes build/logs/steps; do sleep 0.01; done'"
    lane = "step fails sh -c 'echo why; exit 3'; step passes nice"
    process = steps(tmp_path, lane, others_are_done)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "why\n" in output
    assert "not ok\n" in output
    assert "1 step(s) FAILED" in output
    summary = output.partition("summary")[2]
    assert [line.split()[:2] for line in summary.splitlines()[1:4]] == [
        ["fails", "FAILED"],
        ["passes", "ok"],
        ["here", "ok"],
    ]
    assert (tmp_path / "build/logs/passes.log").read_text() == "10\n", "at low priority"


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, received: int) -> None:
    lane = "step slow sh -c 'echo $$ >started; exec sleep 300'"
    # Both are there once they say so: a signal between bash's fork and exec would be lost.
    process = steps(tmp_path, lane, "sh -c 'echo $$ >here; exec sleep 300'")
    started, here = tmp_path / "started", tmp_path / "here"
    wait_until(lambda: all(f.exists() and f.read_text() != "" for f in (started, here)))
    os.killpg(process.pid, received)
    assert process.wait(timeout=60) == 128 + received
    wait_until(lambda: not Path(f"/proc/{started.read_text().strip()}").exists())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
