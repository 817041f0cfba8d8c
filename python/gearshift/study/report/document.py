"""A report in GitHub's Markdown: numbered figures, tables, captions that name their data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")


def plain(text: str) -> str:
    """A text of users in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def code(text: str) -> str:
    """A text of users as code, in tables too."""
    flat = " ".join(str(text).split()).replace("|", "\\|")
    return f"`` {flat} ``" if "`" in flat else f"`{flat}`"


@dataclass
class Document:
    """Markdown that grows from top to bottom."""

    blocks: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    """File names of the figures, by their numbers."""

    def heading(self, level: int, text: str) -> None:
        """Level 1 is the title."""
        self.blocks.append(f"{'#' * level} {text}")

    def paragraph(self, *sentences: str) -> None:
        """Sentences in a row; empty ones are left out."""
        text = " ".join(sentence for sentence in sentences if sentence)
        if text:
            self.blocks.append(text)

    def bullets(self, items: Iterable[str]) -> None:
        lines = [f"- {item}" for item in items]
        if lines:
            self.blocks.append("\n".join(lines))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
        """The first `words` columns are text, the others numbers, which stand right."""
        rule = ["---"] * words + ["---:"] * (len(header) - words)
        lines = [_row(header), _row(rule), *(_row(row) for row in rows)]
        self.blocks.append("\n".join(lines))

    def figure(self, name: str, caption: str, data: str) -> None:
        """A picture of the folder ``figures``; `data` says which file and rows are drawn."""
        self.figures.append(name)
        label = f"Figure {len(self.figures)}"
        self.blocks.append(f"![{label}](figures/{quote(name)})")
        self.blocks.append(f"**{label}.** {caption} *Data: {data}.*")

    @property
    def next_figure(self) -> str:
        """What the next one is going to be called."""
        return f"figure {len(self.figures) + 1}"

    def text(self) -> str:
        return "\n\n".join(self.blocks) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
