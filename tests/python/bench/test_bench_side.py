"""The processes of one side."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from gearshift.bench.case import Side
from gearshift.bench.side import Places, RunningSide

PROGRAM = """
import os
from gearshift.bench.gate import Gate
gate = Gate(int(os.environ["RANK"]))
for order in gate:
    gate.report(seconds=[0.25], verified=True, operations=1)
"""


def test_a_long_path_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a socket has room for 107 bytes."""
    (tmp_path / "program.py").write_text(PROGRAM)
    temporary = tmp_path / ("t" * 120)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    side = Side("made up", str(tmp_path / "program.py"))
    with RunningSide(side, Places(2), tmp_path, 0) as running:
        running.start()
        assert running.turn({"operations": 1}).seconds == 0.25
