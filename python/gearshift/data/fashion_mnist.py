"""Fashion-MNIST: 60,000 + 10,000 grey images of 28 × 28 pixels in ten classes of clothing.

Read from the IDX files of Debian's package ``dataset-fashion-mnist``, or from a folder with the
files under their usual names, packed with gzip or not.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .dataset_error import DatasetError

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IMAGE_SIZE = 28

_SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
_UNSIGNED_BYTES = 0x08
_HELP = (
    "install it with `sudo apt-get install dataset-fashion-mnist`, "
    "or name a folder that holds it in GEARSHIFT_FASHION_MNIST"
)


@dataclass(frozen=True)
class Split:
    """Images and labels of one half of the data set."""

    images: NDArray[np.uint8]
    """Shape (count, 28, 28), 0 is black."""
    labels: NDArray[np.uint8]
    """Shape (count,), indices into CLASSES."""


def load(split: Literal["train", "test"], folder: Path | None = None) -> Split:
    """Read one half of the data set.

    Args:
        split: which half.
        folder: where the files are; by default $GEARSHIFT_FASHION_MNIST, else Debian's place.

    Raises:
        DatasetError: when a file is missing, damaged, or not what its name says.
    """
    name, count = _SPLITS[split]
    images, labels = _files(name, folder)
    result = Split(
        read_idx(images, (count, IMAGE_SIZE, IMAGE_SIZE)),
        read_idx(labels, (count,)),
    )
    if int(result.labels.max()) >= len(CLASSES):
        raise DatasetError(f"{labels} holds labels above {len(CLASSES) - 1}; {_HELP}")
    return result


def check_present(folder: Path | None = None) -> None:
    """Look whether all files are there, without reading them.

    Raises:
        DatasetError: when one is missing.
    """
    for name, _ in _SPLITS.values():
        _files(name, folder)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes (`.gz` or plain) that must have the given shape.

    The format: two zero bytes, the type of the elements, the number of dimensions, each dimension
    as a big-endian 32-bit integer, then the elements in C order.

    Raises:
        DatasetError: when it cannot be read or is something else.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}; {_HELP}") from error
    header = 4 + 4 * len(shape)
    magic = struct.pack(">HBB", 0, _UNSIGNED_BYTES, len(shape))
    if len(data) < header or data[:4] != magic:
        raise DatasetError(
            f"{path} begins with {data[:4].hex() or 'nothing'}, an IDX file of "
            f"{len(shape)}-dimensional bytes with {magic.hex()}; {_HELP}"
        )
    found = struct.unpack(f">{len(shape)}I", data[4:header])
    if found != shape:
        raise DatasetError(f"{path} has shape {found} instead of {shape}; {_HELP}")
    size = len(data) - header
    if size != math.prod(shape):
        raise DatasetError(
            f"{path} holds {size} bytes of data instead of {math.prod(shape)}; {_HELP}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy()


def _files(name: str, folder: Path | None) -> tuple[Path, Path]:
    if folder is None:
        folder = Path(os.environ.get("GEARSHIFT_FASHION_MNIST") or DEFAULT_FOLDER)
    return _find(folder, f"{name}-images-idx3-ubyte"), _find(folder, f"{name}-labels-idx1-ubyte")


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    where = folder.absolute()  # jobs may run elsewhere than where the variable was set
    raise DatasetError(f"Fashion-MNIST is not in {where} ({name}[.gz] is missing); {_HELP}")
