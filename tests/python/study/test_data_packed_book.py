"""The book's packed file: pieces that are joined, and what is said of damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from gearshift.data import bible
from gearshift.data.dataset_error import DatasetError


def codes(text: bytes) -> bytes:
    """Text as compress would have it that never found a repetition: a code of nine bits each."""
    bits = sum(byte << (9 * i) for i, byte in enumerate(text))
    return bits.to_bytes((9 * len(text) + 7) // 8, "little")


def packed(*texts: bytes, size: int = 8) -> bytes:
    pieces = [codes(text) for text in texts]
    begin = 0x54 + 8 + 4 * (len(pieces) + 1)
    places = [begin + sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)]
    head = b"EC02Compressed Data File".ljust(0x54, b"\0")
    numbers = struct.pack(f">{2 + len(places)}I", size, len(pieces), *places)
    return head + numbers + b"".join(pieces)


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "bible.data"
    path.write_bytes(content)
    return path


def test_joins_the_pieces(tmp_path: Path) -> None:
    path = written(tmp_path, packed(b"In the b", b"eginning", b" God\n"))
    assert bible.load(path) == "In the beginning God\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed(b"In the b", b"egin")[:0x58], "table ends too soon"),
        (packed(b"In the b", b"egin")[:-1], "bytes are not those of its table"),
        (packed(b"In the b", b"egin") + b"x", "bytes are not those of its table"),
        (packed(b"In", b"egin"), "piece 0 has 2 characters, not 8"),
        (packed(b"\xe9t\xe9"), "is no English text"),
    ],
)
def test_refuses_what_is_something_else(tmp_path: Path, content: bytes, words: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DatasetError) as problem:
        bible.load(path)
    assert words in str(problem.value)
    assert str(path) in str(problem.value)
    assert "apt-get install bible-kjv-text" in str(problem.value)


def test_refuses_pieces_that_gzip_cannot_read(tmp_path: Path) -> None:
    content = bytearray(packed(b"In the b", b"egin"))
    content[-5:] = b"\xff" * 5
    with pytest.raises(DatasetError, match=r"is damaged: .*gzip"):
        bible.load(written(tmp_path, bytes(content)))


def test_says_that_gzip_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetError, match="gzip, which unpacks the book, is missing"):
        bible.load(written(tmp_path, packed(b"In the b")))


@pytest.mark.skipif(not bible.DEFAULT_FILE.exists(), reason="bible-kjv-text is not installed")
def test_the_real_book(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bible.VARIABLE, raising=False)
    verses = bible.load().splitlines()
    assert len(verses) == 31_102 + 1  # as in any edition, and a title
    assert verses[1] == "Ge1:1 In the beginning God created the heaven and the earth."
    assert verses[-1].startswith("Rev22:21 The grace of our Lord Jesus Christ")
