"""Handwritten digits: 1,797 grey images of 8 × 8 pixels, by 43 people.

The test set of UCI's "Optical Recognition of Handwritten Digits", read from the table that the
wheel of scikit-learn has; scikit-learn itself is not imported.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import wheels
from .dataset_error import DatasetError

COUNT = 1_797
IMAGE_SIZE = 8
CLASSES = 10
BRIGHTEST = 16
"""Of a pixel: so many of its 16 finer ones are ink."""

VARIABLE = "GEARSHIFT_DIGITS"
_HELP = wheels.install(VARIABLE, "scikit-learn")


@dataclass(frozen=True)
class Digits:
    """All images and labels, in the order of the file: those of one writer follow each other."""

    images: NDArray[np.uint8]
    """Shape (1797, 8, 8), from 0 to BRIGHTEST."""
    labels: NDArray[np.uint8]
    """Shape (1797,), the digits."""


def load(path: Path | None = None) -> Digits:
    """Read the data set.

    Args:
        path: the file; by default $GEARSHIFT_DIGITS, else that of scikit-learn's wheel.

    Raises:
        DatasetError: when the file is missing, damaged or something else.
    """
    if path is None:
        path = wheels.find(
            "sklearn", "datasets/data/digits.csv.gz", "the digits", VARIABLE, "scikit-learn"
        )
    table = _table(path)
    pixels, labels = table[:, :-1], table[:, -1]
    if pixels.min() < 0 or pixels.max() > BRIGHTEST:
        raise DatasetError(f"{path} has pixels outside of 0 to {BRIGHTEST}; {_HELP}")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise DatasetError(f"{path} has labels that are no digits; {_HELP}")
    images = pixels.reshape(COUNT, IMAGE_SIZE, IMAGE_SIZE)
    return Digits(images.astype(np.uint8), labels.astype(np.uint8))


def _table(path: Path) -> NDArray[np.int64]:
    """A line per image: its pixels, row by row, and its label."""
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}; {_HELP}") from error
    if not text.strip():
        raise DatasetError(f"{path} is empty; {_HELP}")
    try:
        table = np.loadtxt(text.splitlines(), dtype=np.int64, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DatasetError(f"{path} is no table of whole numbers: {error}; {_HELP}") from error
    shape = (COUNT, IMAGE_SIZE * IMAGE_SIZE + 1)
    if table.shape != shape:
        raise DatasetError(f"{path} has shape {table.shape} instead of {shape}; {_HELP}")
    return table
