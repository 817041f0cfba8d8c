"""Clusters and workloads as they are given: a path, the text of a file, a dict, a value."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from ..launch.toml_file import why_unread
from . import extension, toml_text, workload_file
from .durations import parse_duration
from .given import kind, number, readable, text
from .workload import Workload

ClusterLike = str | Path | Mapping[str, Any]
WorkloadLike = str | Path | Mapping[str, Any] | Workload


@dataclass(frozen=True)
class Source:
    """The text of a TOML file, and what it is called in errors."""

    text: str
    name: str
    stem: str
    """Name of what it describes, when the file gives none."""
    path: Path | None = None
    """The file that it was read from, if it was."""

    def document(self) -> dict[str, Any]:
        """Its contents.

        Raises:
            InvalidArgument: when it is no TOML.
        """
        try:
            return tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{self.name}: {why_unread(error)}") from error

    @property
    def title(self) -> str:
        """What the file calls the cluster or the workload."""
        return str(self.document().get("name", self.stem))

    def changed(self, document: Mapping[str, Any], how: str) -> Source:
        """With other contents; `how` says in errors what was changed. Itself if nothing was."""
        if document == self.document():
            return self  # so that errors name its lines
        return Source(toml_text.dumps(document), f"{self.name} with {how}", self.stem, self.path)


@dataclass(frozen=True)
class WorkloadFacts:
    """What figures need to know of a workload."""

    batch_size: int
    compute_seconds: float
    """Forward, backward and the worker's own optimizer, on a host of speed 1."""
    optimizer_seconds: float = 0.0
    """Of which the last."""

    @property
    def optimizer_share(self) -> float:
        """How long the optimizer takes in proportion to forward and backward."""
        gradient = self.compute_seconds - self.optimizer_seconds
        return self.optimizer_seconds / gradient if gradient > 0 else 0.0

    @staticmethod
    def of(source: Source) -> WorkloadFacts:
        """Of a workload that the simulator has found to be right."""
        document = source.document()
        times = [seconds(document.get(key, 0)) for key in ("forward", "backward", "optimizer")]
        return WorkloadFacts(int(document.get("batch_size", 1)), sum(times), times[-1])


def seconds(value: Any) -> float:
    """A time of a file: text with a unit, or a number.

    Raises:
        ValueError: for a text that is none.
        InvalidArgument: for what is neither.
    """
    return parse_duration(value) if isinstance(value, str) else number("seconds", value)


def read_cluster(cluster: ClusterLike | Source) -> Source:
    """The cluster's file.

    Raises:
        InvalidArgument: when it is nothing that describes a cluster.
        Error: when the file cannot be read.
    """
    return _source(cluster, "cluster")


def read_workload(workload: WorkloadLike | Source) -> Source:
    """The workload's file; see :func:`read_cluster`."""
    if isinstance(workload, Workload):
        return _source(workload_file.document(workload), "workload")
    return _source(workload, "workload")


def read_both(
    cluster: ClusterLike | Source, workload: WorkloadLike | Source
) -> tuple[Source, Source]:
    """Both files, whose contents figures can be made of once they are simulated.

    Where they cannot, the simulator's own reader says best what is wrong, and where.

    Raises:
        InvalidArgument: when it is no such file, or no TOML.
        Error: when a file cannot be read.
    """
    sources = read_cluster(cluster), read_workload(workload)
    checks = extension.describe_cluster, extension.check_workload
    for source, check in zip(sources, checks, strict=True):
        try:
            source.document()
        except InvalidArgument:
            check(source.text, source.name)
            raise
    return sources


def _source(given: Any, what: str) -> Source:
    if isinstance(given, Source):
        return given
    if isinstance(given, Mapping):
        return Source(toml_text.dumps(given), f"<{what}>", what)
    if isinstance(given, str) and _is_text(given):
        return Source(text(what, given).removeprefix("\ufeff"), f"<{what}>", what)
    if not isinstance(given, str | Path):
        raise InvalidArgument(f"{what}: give a path, TOML text or a dict, not {kind(given)}")
    path = Path(given)
    read = workload_file.read_text(path)
    made = _from_json(read, path) if path.suffix == ".json" else read
    return Source(made, readable(str(path)), readable(path.stem), path)


def _is_text(given: str) -> bool:
    """Whether it is TOML and no path, which may have a "=" as well: "runs/lr=0.1/cluster.toml"."""
    if "\n" in given:
        return True
    is_path = given.endswith((".toml", ".json")) or os.path.isfile(given)
    return "=" in given and not is_path


def _from_json(given: str, path: Path) -> str:
    try:
        document = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: no JSON: {why_unread(error)}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{path}: must hold an object")
    try:
        return toml_text.dumps(document)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from error
