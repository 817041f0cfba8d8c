"""The report of a study: tables, figures, Markdown, and an HTML file that works offline.

All of it is made of the study's folder alone, and equal folders give equal bytes:

``data``, ``analysis``, ``spread``, ``switches``, ``clocks``   what was found, and how sure that is
``frames``                        cells.parquet, curves.parquet, strategies.parquet, and .csv
``*_chart``, ``style``            the figures
``answer``, ``*_part``, ``words`` the text
``document``, ``html``            its two forms
"""

from __future__ import annotations

from pathlib import Path

from ...errors import Unsupported

MARKDOWN = "report.md"
HTML = "report.html"


def write_report(folder: Path) -> Path:
    """Write the report of a study into its folder, anew, from what its cells found so far.

    Returns:
        The path of ``report.html``.

    Raises:
        Error: when the folder holds no study, a file in it is damaged, or no cell has an outcome.
        Unsupported: when pandas, pyarrow, matplotlib or markdown-it-py is not installed.
        OSError: when a file cannot be written.
    """
    try:
        from .writing import write
    except ImportError as error:
        raise Unsupported(
            f"{error.name} is not installed, which reports need; `pip install 'gearshift[sim]'`"
            " does it"
        ) from error
    return write(folder)
