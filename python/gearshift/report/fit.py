"""Tables on narrow terminals: several, below each other, instead of one whose numbers are cut."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table


def print_table(console: Console, table: Table, keys: int | None = None) -> None:
    """Print a table whole: what a narrow terminal has no room for goes below, not away.

    Each part begins with the first `keys` columns: unless said, those that tell the rows apart.
    """
    for part in fitting(table, console, _keys(table) if keys is None else keys):
        console.print(part)


def fitting(table: Table, console: Console, keys: int) -> list[Table]:
    """A table as one or more that fit the console, as far as their columns do.

    Each has the first `keys` columns; the title stands above the first, the caption below the last.
    """
    widest = console.options.update(max_width=10_000)

    def fits(columns: list[Column]) -> bool:
        made = _part(table, columns)
        return Measurement.get(console, widest, made).maximum <= console.width

    first, rest = table.columns[:keys], table.columns[keys:]
    parts: list[list[Column]] = [[*first]]
    for column in rest:
        if len(parts[-1]) > keys and not fits([*parts[-1], column]):
            parts.append([*first])
        parts[-1].append(column)
    if len(parts) == 1:
        return [table]
    made = [_part(table, columns) for columns in parts]
    made[0].title, made[-1].caption = table.title, table.caption
    return made


def _part(table: Table, columns: list[Column]) -> Table:
    part = Table(
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
        title_justify=table.title_justify,
        caption_justify=table.caption_justify,
    )
    for column in columns:
        part.add_column(
            column.header,
            justify=column.justify,
            vertical=column.vertical,
            no_wrap=column.no_wrap,
        )
    cells = [list(column.cells) for column in columns]
    for number, row in enumerate(table.rows):
        part.add_row(
            *(column[number] for column in cells), style=row.style, end_section=row.end_section
        )
    return part


def _keys(table: Table) -> int:
    """How many of the first columns it takes to tell the rows apart: the axes of a sweep."""
    rows = list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
    enough = (n for n in range(1, len(table.columns)) if len({r[:n] for r in rows}) == len(rows))
    return next(enough, 1)
