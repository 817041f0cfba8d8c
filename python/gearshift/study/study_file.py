"""Study files: what is compared, as TOML (docs/study.md has every key)."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import Error
from ..launch.toml_file import Table, TomlFile
from ..sim import axes, task
from ..sim.extension import check_workload, describe_cluster
from ..sim.given import number as as_float
from ..sim.inputs import Source, read_cluster, read_workload
from ..sim.scaling import change, edited
from ..sim.simulation import MOST_STEPS
from ..strategy import parse, to_text
from .cell import CLOCKS, SIMULATED, Clock, ClusterCase, Study, UseCase
from .rates import scale

_SEEDS = 3
_MOST_SEEDS = 1000
_EVALUATIONS = 20
_SEARCH = "search"
_SEARCH_BEGINS = (1.0, 2.0)
_TIME = 'a time, such as "3 ms", or a number of seconds'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STEP_KEYS = ("forward", "backward", "optimizer", "batch_size")
_CONSTANTS = {
    "title": "TITLE",
    "samples": "SAMPLES",
    "metric": "METRIC",
    "target": "TARGET",
    "forward": "FORWARD",
    "backward": "BACKWARD",
    "optimizer": "OPTIMIZER",
    "batch_size": "BATCH",
}
"""Of a task's module, in place of keys that a use case leaves out."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # One of hundreds of digits is finite, but no float: the same as infinite.
    return is_number and math.isfinite(as_float("value", value))


def _is_time(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "title": ("a text", _is_text),
    "metric": ("a text", _is_text),
    "samples": ("a whole number, at least 1", _is_count),
    "target": ("a finite number", _is_finite),
    **dict.fromkeys(("forward", "backward", "optimizer"), (_TIME, _is_time)),
}
"""What a constant must be, as the key in its place; of the others, the workload says it."""


def read_study(path: Path) -> Study:
    """What a study file says.

    Paths in it are relative to it. Tasks are loaded: it takes as long as importing torch.

    Raises:
        LaunchError: with file, line and key.
    """
    file = TomlFile(path)
    table = Table(file, file.root)
    folder = path.absolute().parent
    strategies = _strategies(table)  # first: files of clusters and workloads have names, too
    study = Study(
        name=_slug(table, "name") or path.stem,
        title=table.text("title") or path.stem,
        question=table.text("question") or "",
        strategies=strategies,
        seeds=_seeds(table),
        clusters=_clusters(table, folder, _clocks(table) or (SIMULATED,)),
        use_cases=tuple(_use_case(t, folder) for t in _some(table, "use_cases")),
        text=path.read_text(encoding="utf-8"),
    )
    table.no_other_keys()
    for key, names in (
        ("use_cases", [case.name for case in study.use_cases]),
        ("clusters", [case.name for case in study.clusters]),
    ):
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            table.fail(key, f'two of them are called "{twice[0]}": give each a name of its own')
    _check_steps(table, study)
    return study


def _check_steps(table: Table, study: Study) -> None:
    for cluster in study.clusters:
        workers = describe_cluster(cluster.source.text, cluster.source.name)["workers"]
        for number, case in enumerate(study.use_cases):
            if case.steps(workers) > MOST_STEPS:
                table.fail(
                    "use_cases",
                    f"entry {number}, {case.name}: {case.samples:,} samples are"
                    f" {case.steps(workers):,} steps of each worker on {cluster.name}, and at most"
                    f" {MOST_STEPS:,} are simulated",
                )


def _some(table: Table, key: str) -> list[Table]:
    tables = table.tables(key)
    if not tables:
        table.missing(key, f"a study has at least one table [[{key}]]")
    return tables


def _slug(table: Table, key: str) -> str | None:
    """A text that can be part of file names."""
    text = table.text(key)
    if text is not None and _NAME.fullmatch(text) is None:
        table.fail(
            key, f'"{text}" must be letters, digits, ".", "_" and "-": files are named by it'
        )
    return text


def _strategies(table: Table) -> tuple[str, ...]:
    given = table.get("strategies", list, "an array of strategies")
    if not given:
        table.missing("strategies", 'an array such as ["all_reduce", "ps:bsp", "ps:asp"]')
    found: list[str] = []
    for text in given:
        table.check("strategies", text, str, "an array of texts")
        try:
            name = to_text(parse(text))
        except Error as error:
            table.fail("strategies", str(error))
        if name in found:
            table.fail("strategies", f'"{text}" is there twice')
        found.append(name)
    return tuple(found)


def _seeds(table: Table) -> tuple[int, ...]:
    """A number of seeds, 1, 2, …, or the seeds."""
    given = table.get("seeds", (int, list), "a number of seeds, or an array of them")
    if not isinstance(given, list):
        count = table.whole("seeds", 1) or _SEEDS
        if count > _MOST_SEEDS:
            table.fail("seeds", f"must be at most {_MOST_SEEDS}")
        return tuple(range(1, count + 1))
    for seed in given:
        table.check("seeds", seed, int, "a number of seeds, or an array of them")
        if not 0 <= seed < 2**63:
            table.fail("seeds", f"must not be negative, and less than 2^63; {seed} is one")
    if not given or len(set(given)) < len(given):
        table.fail("seeds", "must be at least one, each of them once")
    return tuple(given)


def _clocks(table: Table) -> tuple[Clock, ...] | None:
    words = table.words("clocks", CLOCKS)
    if words == ():
        table.fail("clocks", "is empty; leave the key out to simulate")
    return None if words is None else tuple(clock for clock in CLOCKS if clock in words)


def _clusters(table: Table, folder: Path, clocks: tuple[Clock, ...]) -> tuple[ClusterCase, ...]:
    cases: list[ClusterCase] = []
    for entry in _some(table, "clusters"):
        path = _path(entry, "file", folder)
        if path is None:
            entry.missing("file", "the cluster's TOML file (docs/simulation.md)")
        own = _clocks(entry) or clocks
        name, title = _slug(entry, "name") or path.stem, entry.text("title")
        changed = entry.get("set", dict, "a table: set = { workers = 8 }")
        entry.no_other_keys()
        try:
            source = read_cluster(path)
        except Error as error:
            entry.fail("file", str(error))
        try:
            cases += [
                ClusterCase(f"{name}{suffix}", _titled(title, made, how), made, own)
                for suffix, how, made in _variants(source, changed or {})
            ]
        except Error as error:
            entry.fail("set" if changed else "file", str(error).removeprefix("sweep: "))
    return tuple(cases)


def _titled(title: str | None, source: Source, how: str) -> str:
    """What a cluster is called, with what differs among those of one entry."""
    return f"{title or source.title}, {how}" if how else title or source.title


def _variants(source: Source, changed: Mapping[str, Any]) -> list[tuple[str, str, Source]]:
    """A cluster for each combination of what is set: parts of its name and title, and its file.

    Raises:
        InvalidArgument: for a cluster that is wrong, or cannot be changed so.
    """
    found = []
    dimensions = axes.changes(changed)
    for values in product(*(axis.values for axis in dimensions)):
        point = {axis.name: value for axis, value in zip(dimensions, values, strict=True)}
        document = edited(source.document())
        change(document, {}, point)
        told = {axis.name: axis.show(point[axis.name]) for axis in dimensions}
        varied = [f"{axis.name}={told[axis.name]}" for axis in dimensions if len(axis.values) > 1]
        parts = (re.sub(r"[^A-Za-z0-9.-]+", "", text.replace("=", "-")) for text in varied)
        made = source.changed(document, ", ".join(f"{k}={v}" for k, v in told.items()))
        describe_cluster(made.text, made.name)
        found.append(("".join(f"-{part}" for part in parts), ", ".join(varied), made))
    return found


def _use_case(table: Table, folder: Path) -> UseCase:
    text = table.text("task")
    if text is None:
        table.missing("task", "a file or module of a task, as of gearshift simulate --train")
    where = _located(table, text, folder)
    with task.forgotten(where):
        return _case_of(table, folder, where)


def _case_of(table: Table, folder: Path, where: str) -> UseCase:
    module = _module(table, where)
    rates = _rates(table)
    evaluations = table.whole("evaluations", 1)
    made = _made(table, where, module)
    workload = _workload(table, folder, made, module)
    if rates != (1.0,):
        _check_scalable(table, made)
    case = UseCase(
        name=_slug(table, "name") or _short(where),
        title=_or_constant(table, "title", table.text("title"), module),
        task=where,
        workload=workload,
        samples=_or_constant(table, "samples", table.whole("samples", 1), module),
        metric=_or_constant(table, "metric", table.text("metric"), module),
        target=float(_or_constant(table, "target", table.number("target"), module)),
        evaluations=evaluations or _EVALUATIONS,
        rates=rates or _SEARCH_BEGINS,
        searched=rates == (),
        clocks=_clocks(table) or CLOCKS,
    )
    table.no_other_keys()
    return case


def _rates(table: Table) -> tuple[float, ...]:
    """Factors of the learning rate; none: they are searched."""
    noun = f'an array of factors, or "{_SEARCH}"'
    given = table.get("learning_rates", (list, str), noun)
    if given == _SEARCH:
        return ()
    if isinstance(given, str):
        table.fail("learning_rates", f'must be {noun}, not "{given}"')
    if given == []:
        table.fail("learning_rates", "is empty; leave the key out for the task's own rate")
    for rate in given or ():
        table.check("learning_rates", rate, (int, float), noun)
        if not 0 < rate < float("inf"):
            table.fail("learning_rates", f"must be positive, {rate} is one of them")
    return tuple(float(rate) for rate in dict.fromkeys(given or [1.0]))


def _check_scalable(table: Table, made: Any) -> None:
    try:
        scale(made, 2.0)
    except Error as error:
        table.fail("learning_rates", str(error).removeprefix("learning_rates: "))


def _short(where: str) -> str:
    """The name of a task's file or module."""
    name = task.split(where)[0]
    return Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]


def _located(table: Table, text: str, folder: Path) -> str:
    """The task with a whole path, if it is a file."""
    try:
        where, function = task.split(text)
        if where.endswith(".py") or os.sep in where:
            where = os.path.normpath(folder / Path(where).expanduser())
        task.check(f"{where}:{function}")
    except Error as error:
        table.fail("task", str(error).removeprefix("train: "))
    return f"{where}:{function}"


def _module(table: Table, where: str) -> ModuleType:
    """The module of a task."""
    if importlib.util.find_spec("torch") is None:
        table.fail("task", "needs PyTorch: pip install 'gearshift[study]'")
    try:
        return task.load(where)
    except Error as error:
        table.fail("task", str(error).removeprefix("train: "))


def _made(table: Table, where: str, module: ModuleType) -> Any:
    """What the task trains, so that what it lacks, data too, is told before anything is run."""
    try:
        made = task.call(module, where)
    except Error as error:
        table.fail("task", str(error).removeprefix("train: "))
    if getattr(made, "evaluate", None) is None:
        table.fail(
            "task",
            f"{where} returns no gst.SimulatedTraining with evaluate=, whose metric a study asks "
            "for",
        )
    return made


def _or_constant(table: Table, key: str, given: Any, module: ModuleType) -> Any:
    """What the file says, or else the task."""
    name = _CONSTANTS[key]
    value = given if given is not None else getattr(module, name, None)
    if value is None:
        table.missing(key, f"neither the study nor the task ({name} in its file) says it")
    noun, suits = _KINDS.get(key, ("", lambda value: True))
    if given is None and not suits(value):
        what = f"{value!r}"[:60]
        table.fail("task", f"{name} in {module.__file__} must be {noun}, this is {what}")
    return value


def _workload(table: Table, folder: Path, made: Any, module: ModuleType) -> Source:
    """A file, or one that is made of the task's model and of times."""
    path = _path(table, "workload", folder)
    if path is not None:
        for key in _STEP_KEYS:
            if table.has(key):
                table.fail(key, "contradicts workload, which says it")
        try:
            source = read_workload(path)
            check_workload(source.text, source.name)
        except Error as error:
            table.fail("workload", str(error))
        return source
    times = {
        key: _or_constant(table, key, table.get(key, (str, int, float), _TIME), module)
        for key in ("forward", "backward", "optimizer")
    }
    batch = _or_constant(table, "batch_size", table.whole("batch_size", 1), module)
    try:
        return read_workload(made.workload(**times, batch_size=batch))
    except Error as error:
        key, _, what = str(error).removeprefix("train: ").partition(": ")
        if key in _STEP_KEYS and table.has(key):
            table.fail(key, what)
        table.fail("task", str(error).removeprefix("train: "))


def _path(table: Table, key: str, folder: Path) -> Path | None:
    text = table.text(key)
    if text is None:
        return None
    path = Path(os.path.normpath(folder / Path(text).expanduser()))
    if not path.is_file():
        table.fail(key, f"{path} does not exist (paths are relative to the study file)")
    return path
