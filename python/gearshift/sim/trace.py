"""The timeline of a simulation in the trace format that Perfetto and Chrome read.

A rank is a process, its tracks are threads, and time is virtual. Spans of one track that overlap
without one holding the other, as of two buckets in flight, go to lanes of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import Result

_Span = tuple[int, str, str, float, float]


def save(result: Result, path: Path) -> Path:
    """See :meth:`Result.save_timeline`."""
    hosts = {worker["rank"]: worker["host"] for worker in result.raw["workers"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "traceEvents": list(events(result.raw["timeline"], hosts)),
        "displayTimeUnit": "ms",
        "otherData": {
            "cluster": result.cluster,
            "workload": result.workload,
            "strategy": result.strategy,
            "clock": "virtual",
        },
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def events(timeline: Sequence[_Span], hosts: dict[int, str]) -> Iterator[dict[str, Any]]:
    """The events of a timeline; ranks without a host here are servers."""
    ranks: dict[int, dict[str, list[_Span]]] = {}
    for span in timeline:
        ranks.setdefault(span[0], {}).setdefault(span[1], []).append(span)
    for rank in sorted(ranks):
        yield _named("process_name", rank, 0, f"{hosts.get(rank, 'server')} / rank {rank}")
        yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}
        thread = 0
        for track, spans in ranks[rank].items():
            for number, lane in enumerate(lanes(spans), 1):
                thread += 1
                name = track if number == 1 else f"{track} ({number})"
                yield _named("thread_name", rank, thread, name)
                yield from (_complete(span, thread) for span in lane)


def lanes(spans: Sequence[_Span]) -> list[list[_Span]]:
    """The spans in as many lanes as needed for those of one lane to be nested or apart."""
    found: list[list[_Span]] = []
    open_ends: list[list[float]] = []
    for span in sorted(spans, key=lambda s: (s[3], -s[4])):
        begin, end = span[3], span[4]
        number = next((i for i, ends in enumerate(open_ends) if _fits(begin, end, ends)), None)
        if number is None:
            number = len(found)
            found.append([])
            open_ends.append([])
        found[number].append(span)
        open_ends[number].append(end)
    return found


def _fits(begin: float, end: float, open_ends: list[float]) -> bool:
    """Whether a span lies within the last open one of a lane; those that are over are removed."""
    while open_ends and open_ends[-1] <= begin:
        open_ends.pop()
    return not open_ends or end <= open_ends[-1]


def _named(kind: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": {"name": name}}


def _complete(span: _Span, thread: int) -> dict[str, Any]:
    rank, track, name, begin, end = span
    return {
        "ph": "X",
        "name": name,
        "cat": track,
        "pid": rank,
        "tid": thread,
        "ts": 1e6 * begin,
        "dur": 1e6 * (end - begin),
    }
