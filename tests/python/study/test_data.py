"""Readers of data sets: what is there, and what is said of files that are missing or damaged."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from gearshift.data import bible, digits, fashion_mnist, movielens, wheels
from gearshift.data.dataset_error import DatasetError


def test_digits():
    data = digits.load()
    assert data.images.shape == (1797, 8, 8)
    assert data.images.max() == 16
    # UCI's counts of each digit in this set.
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_ratings():
    data = movielens.load()
    assert data.users.shape == data.films.shape == data.stars.shape == (100_000,)
    # GroupLens's counts of each number of stars.
    assert np.bincount(data.stars.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert len(np.unique(data.users)) == 943
    assert len(np.unique(data.films)) == 1682


def test_the_book():
    text = bible.load()
    assert "In the beginning God created the heaven and the earth." in text
    assert len(text) > 4_000_000


DAMAGED = [
    (digits, b"", r"cannot read|is empty"),
    (digits, gzip.compress(b""), "is empty"),
    (digits, gzip.compress(b"1,2,3\n"), r"shape \(1, 3\) instead of \(1797, 65\)"),
    (digits, gzip.compress(b"a,b\n"), "no table of whole numbers"),
    (digits, gzip.compress((b",".join([b"17"] * 64) + b",1\n") * 1797), "pixels outside"),
    (digits, gzip.compress((b",".join([b"3"] * 64) + b",10\n") * 1797), "no digits"),
    (digits, b"\x1f\x8bgarbage", "cannot read"),
    (movielens, b"", "begins with ''"),
    (movielens, b"a\tb\n1\t2\n", "begins with"),
    (movielens, movielens._HEAD.encode() + b"\n1\t2\t3\t4\n", "1 ratings instead of 100000"),
    (movielens, movielens._HEAD.encode() + b"\nx\t2\t3\t4" * 100_000, "no table"),
    (movielens, movielens._HEAD.encode() + b"\n944\t2\t3\t4" * 100_000, "user_id.* 1 to 943"),
    (movielens, movielens._HEAD.encode() + b"\n1\t2\t3\t4" * 99_999 + b"\n\n", "99999 ratings in"),
    (movielens, movielens._HEAD.encode() + b"\n1\t2\t3\t4" * 99_999 + b"\n#\n", "no table"),
    (movielens, "é".encode(), "cannot read"),
    (bible, "é".encode(), "no English text"),
    (bible, bible._MAGIC, "is damaged: its table ends too soon"),
    (bible, bible._MAGIC.ljust(0x54, b"\0") + b"\0" * 40, "is damaged"),
]


@pytest.mark.parametrize(("reader", "content", "said"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_told(tmp_path, reader, content, said):
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=said) as caught:
        reader.load(path)
    assert str(path) in str(caught.value)
    assert "install it with" in str(caught.value)


@pytest.mark.parametrize("reader", [digits, movielens, bible])
def test_a_variable_names_another_file(tmp_path, monkeypatch, reader):
    monkeypatch.setenv(reader.VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(DatasetError, match="elsewhere"):
        reader.load()


@pytest.mark.parametrize(
    ("variable", "load"),
    [
        ("GEARSHIFT_FASHION_MNIST", lambda: fashion_mnist.load("test")),
        (digits.VARIABLE, digits.load),
        (movielens.VARIABLE, movielens.load),
        (bible.VARIABLE, bible.load),
    ],
)
def test_a_path_that_is_relative_to_another_folder_is_shown_whole(
    tmp_path, monkeypatch, variable, load
):
    """A job file has its processes run beside it."""
    monkeypatch.setenv(variable, "data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=f"{tmp_path}/data"):
        load()


def test_a_book_may_be_plain_text(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("Call me Ishmael.")
    assert bible.load(path) == "Call me Ishmael."


def test_a_wheel_that_is_missing_is_told():
    with pytest.raises(DatasetError, match=r"install --no-deps some-wheel.*GEARSHIFT_SOME"):
        wheels.find("no_such_package", "a/b", "the data", "GEARSHIFT_SOME", "some-wheel")
