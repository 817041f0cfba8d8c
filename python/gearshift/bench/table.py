"""Results as text: a table for the terminal, Markdown for the documentation, a line per case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from .case import OURS

HEADERS = ("case", "against", "ours", "theirs", "ratio", "quartiles", "target", "reached")


def human_seconds(seconds: float) -> str:
    """``1.23 µs``, ``45.6 ms``, ``7.89 s``."""
    magnitude = abs(seconds)
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if magnitude * factor < 999.5:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The lines of a case in the table, one for each peer; see HEADERS."""
    case, sides = str(result["case"]), result["sides"]
    ours = human_seconds(sides[OURS]["seconds"]["median"]) if OURS in sides else "-"
    if OURS not in sides:
        yield (case, "", "-", "-", "-", "", _reason(result), "")
    timed = {t["against"]: t for t in result["targets"] if t["kind"] in ("ratio", "difference")}
    for name in result["ratios"]:
        target = timed.get(name)
        theirs = human_seconds(sides[name]["seconds"]["median"])
        yield (case, name, ours, theirs, *_comparison(name, result, target), *_target_cells(target))
    for target in result["targets"]:
        if target["kind"] not in ("ratio", "difference"):
            yield (case, *_other_cells(target, result), *_target_cells(target))


def summary_table(summary: Mapping[str, Any]) -> Table:
    """All cases of a summary.json."""
    machine = summary["machine"]
    table = Table(
        title=f"{machine['processor']}, {machine['cores']} cores, "
        f"{', '.join(machine['simd'][-1:])}, Linux {machine['kernel']}",
        caption="ratio: their time divided by ours, median of the ratios of the rounds",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for header in HEADERS:
        left = header in ("case", "against")
        table.add_column(header, justify="left" if left else "right", no_wrap=left)
    previous = None
    for result in summary["cases"]:
        if previous not in (None, result["setting"]):
            table.add_section()
        previous = result["setting"]
        for index, row in enumerate(rows(result)):
            cells = ["" if index else row[0], *row[1:-1]]
            table.add_row(*map(escape, cells), _coloured(row[-1]))
    return table


def markdown(summary: Mapping[str, Any]) -> str:
    """The table, with machine and versions, for the documentation."""
    machine = summary["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items() if value)
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['simd'])}; "
        f"{caches}; Linux {machine['kernel']}; {versions}.",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "|---|---|" + "---:|" * (len(HEADERS) - 2),
    ]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for result in summary["cases"]
        for row in rows(result)
    ]
    lines += [f"- {line}" if line else "" for line in ("", *remarks(summary), *notes(summary))]
    return "\n".join(lines).rstrip() + "\n"


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What was skipped, has failed or was wrong, each once; and what was not measured any more."""
    found: dict[str, list[str]] = {}
    early = summary.get("interrupted")
    ended = [f"interrupted: {early['measured']} of {early['of']} cases measured"] if early else []
    for result in summary["cases"]:
        for name, reason in result["skipped"].items():
            found.setdefault(f"{name}: {reason}", []).append(result["case"])
        for name, side in result["sides"].items():
            for problem in side["problems"]:
                found.setdefault(f"{name}: WRONG RESULT: {problem}", []).append(result["case"])
    return ended + [
        f"{text} ({cases[0]}{f' and {len(cases) - 1} more' if len(cases) > 1 else ''})"
        for text, cases in found.items()
    ]


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What else was measured of ours and is worth knowing."""
    found = []
    for result in summary["cases"]:
        hidden = result["sides"].get(OURS, {}).get("more", {}).get("hidden_share")
        if hidden is not None:
            found.append(
                f"{result['case']}: {100 * hidden:.0f} % of the communication is hidden behind "
                "backward"
            )
    return found


def headline(result: Mapping[str, Any]) -> str:
    """A case in one line."""
    sides = result["sides"]
    if OURS not in sides:
        return f"{result['case']}: skipped: {_reason(result)}"
    parts = [f"{name} {human_seconds(side['seconds']['median'])}" for name, side in sides.items()]
    wrong = [name for name, side in sides.items() if not side["verified"]]
    return f"{result['case']}: {', '.join(parts)}" + (f"  WRONG: {wrong}" if wrong else "")


def counts(summary: Mapping[str, Any]) -> tuple[int, int]:
    """How many targets were reached, of how many that could be checked."""
    targets: Sequence[Any] = [t for result in summary["cases"] for t in result["targets"]]
    return sum(target["reached"] for target in targets), len(targets)


def _comparison(
    name: str, result: Mapping[str, Any], target: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Ratio and its quartiles; the difference where that is what counts."""
    if target is not None and target["kind"] == "difference":
        difference = result["differences"][name]
        low, high = (1e6 * difference[end] for end in ("low", "high"))
        return f"{1e6 * difference['median']:+.2f} µs", f"{low:+.2f} to {high:+.2f}"
    ratio = result["ratios"][name]
    return _ratio(ratio["median"]), f"{_ratio(ratio['low'])}-{_ratio(ratio['high'])}"


def _other_cells(target: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a target that is not about a peer's time: against, ours, theirs, ratio, quartiles."""
    against, value = target["against"], target["value"]
    if target["kind"] == "bound":
        ours = result["sides"][OURS]["seconds"]["median"]
        bound = result["bound"]["seconds"]
        return (against, human_seconds(ours), human_seconds(bound), f"{value:.3f}x", "")
    if target["kind"] == "bytes":
        between = result["between_hosts"]
        sent = between["sent"][OURS]["median"]
        return (against, human_bytes(sent), human_bytes(between["flat_ring"]), _ratio(value), "")
    memory = [result["sides"][name]["more"]["pss_bytes"] for name in (OURS, against)]
    return (f"{against}, memory", *map(human_bytes, memory), f"{value:+.2f} sets", "")


def human_bytes(count: float) -> str:
    """``1.23 MB`` for 1,234,567."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def _reason(result: Mapping[str, Any]) -> str:
    """Why ours is not there, in a line; the notes have the rest."""
    lines = str(result["skipped"].get(OURS, "failed")).splitlines()
    return lines[0] + (" …" if len(lines) > 1 else "")


def _target_cells(target: Mapping[str, Any] | None) -> tuple[str, str]:
    if target is None:
        return ("", "")
    return (target["wanted"], "yes" if target["reached"] else "no")


def _coloured(reached: str) -> str:
    return {"yes": "[green]yes[/]", "no": "[red]no[/]"}.get(reached, reached)


def _ratio(value: float) -> str:
    return f"{_three_digits(value)}x"


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    return (
        f"{value:.0f}"
        if magnitude >= 99.95
        else f"{value:.1f}"
        if magnitude >= 9.995
        else f"{value:.2f}"
    )
