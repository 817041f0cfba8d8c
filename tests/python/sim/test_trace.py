"""Timelines in Perfetto's trace format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gearshift_testing.simulated import raw_answer, result

import gearshift as gs
from gearshift.sim.trace import lanes


def test_a_timeline_is_what_perfetto_reads(tmp_path: Path) -> None:
    path = result().save_timeline(tmp_path / "new" / "timeline.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    events = document["traceEvents"]
    assert document["otherData"]["clock"] == "virtual"
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {0: "fast / rank 0", 1: "slow / rank 1", 2: "server / rank 2"}
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"
    }
    assert threads[0, 1] == "computation"
    assert sorted(threads.values()).count("communication (2)") == 1
    spans = [e for e in events if e["ph"] == "X"]
    assert len(spans) == len(raw_answer()["timeline"])
    assert all((e["pid"], e["tid"]) in threads for e in spans)
    backward = next(e for e in spans if e["name"] == "backward")
    assert (backward["ts"], backward["dur"]) == (pytest.approx(1e5), pytest.approx(1e5))


def test_spans_of_a_lane_are_apart_or_nested() -> None:
    spans = [
        (0, "t", "outer", 0.0, 1.0),
        (0, "t", "inner", 0.2, 0.5),
        (0, "t", "next", 1.0, 2.0),
        (0, "t", "across", 0.4, 1.5),
        (0, "t", "later", 1.5, 1.6),
    ]
    assert [[span[2] for span in lane] for lane in lanes(spans)] == [
        ["outer", "inner", "next", "later"],
        ["across"],
    ]


def test_without_a_timeline_there_is_nothing_to_save(tmp_path: Path) -> None:
    raw = raw_answer()
    raw["timeline"] = []
    with pytest.raises(gs.InvalidArgument, match="timeline=True"):
        result(raw).save_timeline(tmp_path / "timeline.json")
