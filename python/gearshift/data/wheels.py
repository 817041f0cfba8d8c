"""Data files that wheels bring along, found without importing what is in them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from .dataset_error import DatasetError


def find(package: str, inside: str, title: str, variable: str, wheel: str) -> Path:
    """The path of a data file.

    Args:
        package: the one that the file is in; it is not imported, so what it needs may be missing.
        inside: the file's place in the package.
        title: of the data set, for errors.
        variable: of the environment; the path of such a file from elsewhere, if it is set.
        wheel: the name under which pip knows the package.

    Raises:
        DatasetError: when there is no such file.
    """
    named = os.environ.get(variable)
    if named:
        path = Path(named)
        if path.is_file():
            return path
        where = path.absolute()  # jobs may run elsewhere than where the variable was set
        raise DatasetError(f"{title}: {where}, which {variable} names, is no file")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / inside
        if path.is_file():
            return path
    raise DatasetError(f"{title} is missing; {install(variable, wheel)}")


def install(variable: str, wheel: str) -> str:
    """What errors recommend."""
    return (
        f"install it with `pip install --no-deps {wheel}`, of which only the data is used, "
        f"or name the file in {variable}"
    )
