"""The outcome as a table, for docs/, and as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..recommend import ACCURACY
from .figures import summary

SUMMARY = "summary.json"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def write(document: Mapping[str, Any], out: Path, publish: bool) -> str:
    """Write summary.json and table.md to `out`; returns the chief figures as text.

    `publish`: also what ships: the table in docs/validation.md, and the accuracy that
    ``gearshift simulate --recommend`` states.
    """
    text = json.dumps(document, indent=2) + "\n"
    (out / SUMMARY).write_text(text, encoding="utf-8")
    table = markdown(document)
    (out / "table.md").write_text(table, encoding="utf-8")
    if publish:
        _publish(document, table)
    return f"{table}\n{headline(document)}\nNumbers: {out / SUMMARY}"


def headline(document: Mapping[str, Any]) -> str:
    """A sentence for each half, and one for the winners."""
    lines = []
    halves = {half: document[half] for half in ("calibrated", "judged")}
    for half, s in {**halves, "all": summary([r["error"] for r in document["rows"]])}.items():
        lines.append(
            f"{half}: {s['configurations']} configurations, mean absolute error "
            f"{100 * s['mean_absolute_error']:.1f} %, 95th percentile "
            f"{100 * s['p95_absolute_error']:.1f} %, worst {100 * s['worst_absolute_error']:.1f} %"
        )
    w = document["winners"]
    lines.append(
        f"winners: right in {w['clear_right']} of {w['clear']} cells with one that leads by more "
        f"than 5 %, in {w['right']} of {w['cells']} cells with a gap, "
        f"and in {w['pairs_right']} of {w['pairs']} pairs"
    )
    return "\n".join(lines)


def markdown(document: Mapping[str, Any]) -> str:
    """Every row."""
    lines = [
        "| Cell | Workload | Strategy | Half | Measured | Spread | Simulated | Error |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        lines.append(
            f"| {row['cell']} | {row['workload']} | `{row['strategy']}` | {row['half']} "
            f"| {1e3 * row['measured']:.1f} ms | ±{100 * row['spread']:.1f} % "
            f"| {1e3 * row['simulated']:.1f} ms | {100 * row['error']:+.1f} % |"
        )
    return "\n".join(lines) + "\n"


def _publish(document: Mapping[str, Any], table: str) -> None:
    package = Path(__file__).parents[1]
    # Of all rows: should one half be nearer by chance, a recommendation does not boast of it.
    overall = summary([row["error"] for row in document["rows"]])
    keys = ("mean_absolute_error", "p95_absolute_error", "configurations")
    accuracy = json.dumps({key: overall[key] for key in keys}, indent=2)
    (package / ACCURACY).write_text(accuracy + "\n", encoding="utf-8")
    page = package.parents[2] / "docs" / "validation.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    facts = headline(document).replace("\n", "\n- ")
    page.write_text(f"{before}{BEGIN}\n- {facts}\n\n{table}{END}{after}", encoding="utf-8")
