"""MovieLens-100K: 100,000 ratings, 1 to 5 stars, that 943 people gave to 1,682 films.

By F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", 2015. Read from
the table that the wheel of RecBole has; RecBole itself is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import wheels
from .dataset_error import DatasetError

COUNT = 100_000
USERS = 943
FILMS = 1_682
STARS = 5

VARIABLE = "GEARSHIFT_MOVIELENS"
_HELP = wheels.install(VARIABLE, "recbole")
_HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


@dataclass(frozen=True)
class Ratings:
    """Who gave which film how many stars; an element per rating, in the order of the file, which
    is none."""

    users: NDArray[np.int64]
    """Shape (100000,), from 0."""
    films: NDArray[np.int64]
    """Shape (100000,), from 0."""
    stars: NDArray[np.float32]
    """Shape (100000,), 1 to 5."""


def load(path: Path | None = None) -> Ratings:
    """Read the data set.

    Args:
        path: the file ``ml-100k.inter``; by default $GEARSHIFT_MOVIELENS, else that of RecBole's
            wheel.

    Raises:
        DatasetError: when the file is missing, damaged or something else.
    """
    if path is None:
        path = wheels.find(
            *("recbole", "dataset_example/ml-100k/ml-100k.inter"),
            *("MovieLens-100K", VARIABLE, "recbole"),
        )
    table = _table(path)
    for column, most in enumerate((USERS, FILMS, STARS)):
        name = _HEAD.split("\t")[column]
        if table[:, column].min() < 1 or table[:, column].max() > most:
            raise DatasetError(f"{path}: {name} is not everywhere from 1 to {most}; {_HELP}")
    users, films, stars = table[:, 0], table[:, 1], table[:, 2]
    return Ratings(users - 1, films - 1, stars.astype(np.float32))


def _table(path: Path) -> NDArray[np.int64]:
    """A line per rating: user, film, stars, time."""
    try:
        head, *lines = path.read_text(encoding="ascii").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}; {_HELP}") from error
    if head != _HEAD:
        raise DatasetError(f"{path} begins with {head[:80]!r} instead of {_HEAD!r}; {_HELP}")
    ratings = [line for line in lines if line.strip()]  # NumPy leaves the others out, too
    if len(ratings) != COUNT:
        raise DatasetError(f"{path} has {len(ratings)} ratings instead of {COUNT}; {_HELP}")
    try:
        return np.loadtxt(ratings, np.int64, comments=None, delimiter="\t", usecols=(0, 1, 2))
    except ValueError as error:
        raise DatasetError(f"{path} is no table of whole numbers: {error}; {_HELP}") from error
