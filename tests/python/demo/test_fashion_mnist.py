"""The reader of Fashion-MNIST, on made-up files and on the real ones."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from gearshift.data.fashion_mnist import CLASSES, DEFAULT_FOLDER, DatasetError, load, read_idx

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(values=VALUES, magic=b"\0\0\x08\x03") -> bytes:
    return magic + struct.pack(">3I", *values.shape) + values.tobytes()


@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_reads_idx(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx()) if name.endswith(".gz") else idx())
    found = read_idx(path, (2, 3, 4))
    np.testing.assert_array_equal(found, VALUES)
    assert found.dtype == np.uint8
    assert found.flags.writeable


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with nothing"),
        (idx(magic=b"\0\0\x0d\x03"), "begins with 00000d03"),
        (idx()[:-1], "holds 23 bytes of data instead of 24"),
        (idx() + b"x", "holds 25 bytes"),
        (idx(VALUES[:1]), "has shape (1, 3, 4) instead of (2, 3, 4)"),
    ],
)
def test_refuses_what_is_something_else(tmp_path, data, words):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DatasetError) as problem:
        read_idx(path, (2, 3, 4))
    assert words in str(problem.value)
    assert str(path) in str(problem.value)


def test_refuses_damaged_gzip(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx())[:-9])
    with pytest.raises(DatasetError, match="cannot read"):
        read_idx(path, (2, 3, 4))


def test_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("GEARSHIFT_FASHION_MNIST", str(tmp_path))
    with pytest.raises(DatasetError, match="apt-get install dataset-fashion-mnist"):
        load("train")


@pytest.mark.skipif(not DEFAULT_FOLDER.exists(), reason="dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_real_data(split, count, monkeypatch):
    monkeypatch.delenv("GEARSHIFT_FASHION_MNIST", raising=False)
    found = load(split)
    assert found.images.shape == (count, 28, 28)
    assert np.bincount(found.labels).tolist() == [count // len(CLASSES)] * len(CLASSES)
    assert 60 < found.images.mean() < 80
