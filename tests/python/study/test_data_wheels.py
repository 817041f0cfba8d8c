"""Data files of wheels are found without an import, or the error says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from gearshift.data import wheels
from gearshift.data.dataset_error import DatasetError

INSIDE = "data/table.csv"
VARIABLE = "GEARSHIFT_TEST_TABLE"


def find() -> Path:
    return wheels.find("made_up_wheel", INSIDE, "the table", VARIABLE, "made-up-wheel")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported, with a data file."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "made_up_wheel" / INSIDE
    path.parent.mkdir(parents=True)
    path.write_text("1,2")
    (tmp_path / "made_up_wheel" / "__init__.py").write_text("import what_is_not_there")
    return path


def test_finds_the_file_of_a_package_that_cannot_be_imported(wheel: Path) -> None:
    assert find() == wheel


def test_the_variable_goes_first(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("3")
    monkeypatch.setenv(VARIABLE, str(other))
    assert find() == other


def test_a_variable_that_names_nothing_is_an_error(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(DatasetError, match=f"none, which {VARIABLE} names, is no file"):
        find()


def test_a_package_without_the_file_says_what_to_install(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(DatasetError) as problem:
        find()
    assert "the table is missing" in str(problem.value)
    assert "pip install --no-deps made-up-wheel" in str(problem.value)
    assert VARIABLE in str(problem.value)
