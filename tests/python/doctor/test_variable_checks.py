"""What is said of environment variables."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

import gearshift
from gearshift.doctor import variables
from gearshift.doctor.finding import Finding

ROOT = Path(gearshift.__file__).parents[2]
TOKEN = "d" * 64


def bad(environ: dict[str, str]) -> list[Finding]:
    return [finding for finding in variables.check(environ) if finding.level != "ok"]


def test_nothing_set():
    assert bad({"PATH": "/bin", "OMP_NUM_THREADS": "2"}) == []


def test_known_names_are_those_of_the_documentation():
    text = (ROOT / "docs" / "python.md").read_text()
    section = text.partition("## Variables")[2].partition("\n## ")[0]
    documented = set(re.findall(r"GEARSHIFT_[A-Z_]+", section))
    assert documented <= set(variables.KNOWN)
    assert set(variables.SETTINGS) <= documented


def test_every_variable_that_the_package_reads_is_known():
    texts = [path.read_text() for path in (ROOT / "python" / "gearshift").rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'"(GEARSHIFT_[A-Z_]+[A-Z])"', text)}
    assert "GEARSHIFT_DIGITS" in read
    assert read <= set(variables.KNOWN)


def test_a_name_that_nobody_reads():
    (finding,) = bad({"GEARSHIFT_TIMEOUTS": "5"})
    assert finding.level == "warning"
    assert finding.todo == "did you mean GEARSHIFT_TIMEOUT?"


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("GEARSHIFT_CALIBRATE", "yes", "problem"),
        ("GEARSHIFT_LOG", "verbose", "warning"),
        ("GEARSHIFT_STRATEGY", "ps:sometimes", "problem"),
        ("GEARSHIFT_TOTAL_STEPS", "many", "problem"),
        ("GEARSHIFT_TRANSPORTS", "tcp,rdma", "problem"),
        ("GEARSHIFT_TIMEOUT", "soon", "problem"),
        ("GEARSHIFT_RANK", "1", "problem"),
        ("NCCL_SOCKET_IFNAME", "eth0", "warning"),
    ],
)
def test_wrong_values(name, value, level):
    (finding,) = bad({name: value})
    assert finding.level == level
    assert name in finding.found or name in finding.todo
    assert finding.why


def test_a_job_that_is_left_in_the_shell():
    (finding,) = bad({"RANK": "0", "WORLD_SIZE": "2"})
    assert finding.topic == "place in a job"
    assert finding.todo.endswith("RANK, WORLD_SIZE")


def test_tokens_are_compared_and_never_shown():
    found = variables.check({"GEARSHIFT_TOKEN": TOKEN})
    assert {finding.level for finding in found} == {"ok"}
    text = repr(found)
    assert TOKEN not in text
    assert variables.token_mark(TOKEN) in text
    assert variables.token_mark(TOKEN) != variables.token_mark(TOKEN[:-1])


def test_a_stale_token(tmp_path):
    file = tmp_path / "token"
    file.write_text("e" * 64)
    file.chmod(0o600)
    environ = {"GEARSHIFT_TOKEN_FILE": str(file)}
    assert bad(environ) == []
    (finding,) = bad({**environ, "GEARSHIFT_TOKEN": TOKEN})
    assert "holds another" in finding.found
    assert bad({**environ, "GEARSHIFT_TOKEN": "e" * 64}) == []
    old = time.time() - 100 * 86400
    os.utime(file, (old, old))
    (finding,) = bad(environ)
    assert "100 days old" in finding.found
    file.chmod(0o644)
    (finding,) = bad(environ)
    assert finding.level == "problem"
    assert "chmod 600" in finding.found
