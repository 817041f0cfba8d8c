"""Job files: what ``gearshift run`` is to start, as TOML (docs/jobs.md has every key)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import LaunchError
from .plan import TRANSPORTS, LaunchOptions, TargetKind, split_endpoint
from .strategy import STRATEGY, TOTAL_STEPS, check_strategy
from .toml_file import NUL, Table, TomlFile, shown

_SCALARS = (str, int, float)
_TARGETS: dict[str, TargetKind] = {
    "script": "script",
    "module": "module",
    "program": "executable",
}
_OF_THE_MACHINE = ("node_rank", "interface")
_KEY_OF = {
    STRATEGY: "strategy",
    TOTAL_STEPS: "total_steps",
    "GEARSHIFT_TIMEOUT": "timeout",
    "GEARSHIFT_TRANSPORTS": "transports",
    "GEARSHIFT_SERVERS": "servers",
    "GEARSHIFT_RDZV": "rdzv",
    "GEARSHIFT_NNODES": "nnodes",
    "GEARSHIFT_TOKEN_FILE": "token_file",
}
"""Variables that a key sets."""
_VARIABLES_ALONE = {"strategy", "total_steps", "timeout", "transports"}
"""Keys that do nothing but that: `--env` overrides them."""
_OF_THE_LAUNCHER = tuple(
    f"GEARSHIFT_{name}"
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "LAUNCHER")
)


def is_job_file(options: LaunchOptions) -> bool:
    """Whether what is to be started is described by a file, and is no script itself."""
    return options.kind == "script" and options.target[0].endswith(".toml")


def with_job_file(options: LaunchOptions, given: Collection[str]) -> LaunchOptions:
    """What the job file says, which stands in place of a script, but for what is `given`.

    Args:
        options: of the command line, with defaults; the file, then more arguments for the script.
        given: names of the fields that the command line sets.

    Raises:
        LaunchError: with file, line and key.
    """
    path, *arguments = options.target
    file = TomlFile(Path(path))
    table = Table(file, file.root)
    found = _read(table, Path(path).absolute().parent)
    by_env = {key for name, key in _KEY_OF.items() if name in options.extra_env}
    overridden = {*given, *(by_env & _VARIABLES_ALONE)} - {"target"}
    found["target"] = (*found["target"], *arguments)
    found["extra_env"] = {**found["extra_env"], **options.extra_env}
    result = replace(
        options,
        **{name: value for name, value in found.items() if name not in overridden},
        job_file=Path(path),
        added=len(arguments),
    )
    _check_together(table, result, overridden)
    return result


def located(options: LaunchOptions, given: Collection[str], error: LaunchError) -> LaunchError:
    """An error of an option, of the file where the job file sets it and no command line does.

    Args:
        options: that :func:`with_job_file` has made, or others.
        given: as there.
        error: which names the option, or the token file.
    """
    if options.job_file is None:
        return error
    file, text = TomlFile(options.job_file), str(error)
    for key in file.root:
        rest = text.removeprefix(f"--{key.replace('_', '-')}")
        if key == "token_file" and f"token file {options.token_file}" in text:
            rest = f": {text}"
        if key not in given and rest != text and rest[:1] in (":", " "):
            return LaunchError(f"{file.place_of((key,))}: {rest[1:].lstrip()}")
    return error


def _read(table: Table, folder: Path) -> dict[str, Any]:
    """The fields of LaunchOptions that are there, and always `target` and `extra_env`."""
    for key in _OF_THE_MACHINE:
        if table.has(key):
            option = f"--{key.replace('_', '-')}"
            table.fail(key, f"differs from node to node: give {option} on the command line")
    kind, target = _target(table, folder)
    transports = table.words("transports", TRANSPORTS)
    if transports == ():
        table.fail("transports", "is empty; leave the key out to allow all")
    found = {
        "kind": kind,
        "target": (target, *_arguments(table)),
        "folder": _folder(table, folder),
        "strategy": table.text("strategy"),
        "total_steps": table.whole("total_steps", 1),
        "processes": table.whole("processes", 1),
        "servers": table.whole("servers", 0),
        "nnodes": table.whole("nnodes", 1),
        "rdzv": table.text("rdzv"),
        "timeout": table.seconds("timeout", may_be_zero=False),
        "grace": table.seconds("grace", may_be_zero=True),
        "transports": transports,
        "prefix": table.flag("prefix"),
        "log_dir": _path(table, "log_dir", folder),
        "token_file": _path(table, "token_file", folder),
        "extra_env": _environment(table),
    }
    table.no_other_keys()
    return {name: value for name, value in found.items() if value is not None}


def _target(table: Table, folder: Path) -> tuple[TargetKind, str]:
    texts = {key: table.text(key) for key in _TARGETS}
    given = [key for key, text in texts.items() if text is not None]
    if not given:
        table.missing("script", 'a Python script (or module = "…", or program = "…")')
    if len(given) > 1:
        table.fail(given[1], f"contradicts {given[0]}: a job starts one of them")
    key = given[0]
    text = texts[key] or ""
    if key == "program" and os.sep not in text and shutil.which(text) is None:
        table.fail(key, f'"{text}" is no command on PATH; one beside the job file is "./{text}"')
    if key == "module" or (key == "program" and os.sep not in text):
        return _TARGETS[key], text
    path = _below(folder, text)
    if key == "program" and shutil.which(path) is None:
        table.fail(key, f"{path} is no executable file; to start a Python script, write script")
    if not path.exists():
        table.fail(key, f"{path} does not exist (paths are relative to the job file)")
    return _TARGETS[key], str(path)


def _below(folder: Path, text: str) -> Path:
    return Path(os.path.normpath(folder / Path(text).expanduser()))


def _path(table: Table, key: str, folder: Path) -> Path | None:
    text = table.text(key)
    return None if text is None else _below(folder, text)


def _folder(table: Table, folder: Path) -> Path:
    chosen = _path(table, "folder", folder) or folder
    if not chosen.is_dir():
        table.fail("folder", f"{chosen} is no folder (paths are relative to the job file)")
    return chosen


def _arguments(table: Table) -> list[str]:
    """Of the script: an array as it is, or a table that becomes options."""
    given = table.get("arguments", (list, dict), "an array, or a table of options")
    if isinstance(given, list):
        for value in given:
            table.check("arguments", value, _SCALARS, "an array of texts and numbers")
            _check_argument(table, "arguments", value)
        return [str(value) for value in given]
    options = table.table("arguments") if given else None
    return [] if options is None else [a for key in options.values for a in _option(options, key)]


def _check_argument(table: Table, key: str, value: str | int | float) -> None:
    if "\0" in str(value):
        table.fail(key, NUL)


def _option(table: Table, key: str) -> list[str]:
    value = table.get(key, (*_SCALARS, bool, list), "a text, a number, true, false or an array")
    if isinstance(value, bool):
        _check_argument(table, key, key)
        return [f"--{key}"] if value else []
    values = value if isinstance(value, list) else [value]
    for element in values:
        table.check(key, element, _SCALARS, "an array of texts and numbers")
        _check_argument(table, key, f"{key}{element}")
    return [f"--{key}", *map(str, values)]


def _environment(table: Table) -> dict[str, str]:
    variables = table.table("env")
    if variables is None:
        return {}
    found = {}
    for name in variables.values:
        value = variables.get(name, _SCALARS, "a text or a number")
        if not name or "=" in name or "\0" in f"{name}{value}":
            variables.fail(name, f"no variable can have this name or this value, {shown(value)}")
        if name in _KEY_OF:
            variables.fail(name, f'has a key of its own: "{_KEY_OF[name]}", above all tables')
        if name in _KEY_OF.values() or name in _TARGETS:
            variables.fail(name, "belongs to the file itself: move it above the first [table]")
        if name in _OF_THE_LAUNCHER:
            variables.fail(name, "is what gearshift run tells each process itself")
        if name == "GEARSHIFT_INTERFACE":
            variables.fail(name, "differs from node to node: give --interface")
        if name == "GEARSHIFT_TOKEN":
            variables.fail(name, "would be a secret that is not kept: use token_file, or export it")
        found[name] = str(value)
    return found


def _check_together(table: Table, job: LaunchOptions, overridden: Collection[str]) -> None:
    """What the file says in several places, some of them perhaps on the command line."""

    def own(key: str) -> bool:
        return table.has(key) and key not in overridden

    try:
        if own("strategy") and job.strategy is not None:
            key = "strategy"
            check_strategy(job.strategy, job.servers)
        if own("rdzv") and job.rdzv is not None:
            key = "rdzv"
            split_endpoint(job.rdzv)
    except LaunchError as error:
        table.fail(key, str(error))
    if own("nnodes") and job.nnodes > 1 and job.rdzv is None:
        table.fail(
            "nnodes",
            f'{job.nnodes} nodes need rdzv = "HOST:PORT", an address of node 0 that all nodes can '
            "reach and a free port",
        )
