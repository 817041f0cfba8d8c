"""Results as pandas data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import Unsupported
from .figures import Link

if TYPE_CHECKING:
    import pandas as pd

    from .result import Result


def steps_frame(result: Result) -> pd.DataFrame:
    """See :meth:`Result.steps_frame`."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("rank", "host", "step", "begin", "computed", "end")
    }
    for worker in result.raw["workers"]:
        count = len(worker["end"])
        columns["rank"] += [worker["rank"]] * count
        columns["host"] += [worker["host"]] * count
        columns["step"] += range(1, count + 1)
        for key in ("begin", "computed", "end"):
            columns[key] += worker[key]
    frame = _pandas().DataFrame(columns)
    frame["seconds"] = frame["end"] - frame["begin"]
    return frame


def links_frame(result: Result) -> pd.DataFrame:
    """See :meth:`Result.links_frame`."""
    columns = [field.name for field in fields(Link)]
    frame = _pandas().DataFrame([asdict(link) for link in result.links], columns=columns)
    return frame.rename(columns={"name": "link"})


def curve_frame(result: Result) -> pd.DataFrame:
    """See :meth:`Result.curve_frame`."""
    columns = ["seconds", "step", "loss", "metric"]
    return _pandas().DataFrame([asdict(point) for point in result.curve], columns=columns)


def write_parquet(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type], path: Path
) -> None:
    """Rows of one table as a Parquet file, whose columns have their types whatever is in them.

    Raises:
        Unsupported: when pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing("pyarrow") from error
    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with path.open("wb") as file:  # pyarrow takes a path such as "run:1/x" for an address
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)


def _pandas() -> ModuleType:
    try:
        import pandas as pd
    except ImportError as error:
        raise _missing("pandas") from error
    return pd


def _missing(what: str) -> Unsupported:
    return Unsupported(f"{what} is not installed; `pip install 'gearshift[sim]'` does it")
