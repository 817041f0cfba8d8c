"""The task that a simulation learns: the text that names it, and the function behind it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from ..errors import Error, InvalidArgument

FUNCTION = "training"
_PACKAGE = str(Path(__file__).parent.parent) + os.sep


def split(task: str) -> tuple[str, str]:
    """File or module, and function, of "task.py", "task.py:function", "module:function".

    Raises:
        InvalidArgument: when it is none of them.
    """
    where, colon, function = task.rpartition(":")
    if not colon or function.endswith(".py"):  # a folder may be called "10:30"
        where, function = task, FUNCTION
    if not where or not function.isidentifier():
        raise InvalidArgument(
            f'train: "{task}" is no task; write PATH.py, PATH.py:FUNCTION or MODULE:FUNCTION'
        )
    return where, function


def check(task: str) -> None:
    """Refuse a task whose text is wrong, or whose file is not there, before anything is started.

    Raises:
        InvalidArgument: for the text.
        Error: for the file.
    """
    where, _ = split(task)
    if _is_path(where) and not Path(where).is_file():
        raise Error(f"{where}: No such file", code="io")


def make(task: str) -> Any:
    """What the task's function returns.

    Raises:
        InvalidArgument: when there is no such function, or it fails; with the place in the file.
    """
    return call(load(task), task)


def load(task: str) -> ModuleType:
    """The module of a task.

    Raises:
        InvalidArgument: when it cannot be loaded; with the place in the file.
    """
    where, _ = split(task)
    return _guarded(f"{where} cannot be loaded", lambda: _load(where))


@contextlib.contextmanager
def forgotten(task: str) -> Iterator[None]:
    """For a ``with`` statement in which a task is loaded and called, but not after it.

    What it imports from its own folder is forgotten then, and the next task finds its own modules
    of the same names. If it changes the working folder, that is undone.
    """
    where, _ = split(task)
    path, modules, folder = sys.path[:], set(sys.modules), os.getcwd()
    home = str(Path(where).resolve().parent) if _is_path(where) else folder
    try:
        yield
    finally:
        new = {name.partition(".")[0] for name in sys.modules} - modules
        own = {name for name in new if _folder_of(sys.modules.get(name)) == home}
        for name in list(sys.modules):
            if name.partition(".")[0] in own:
                del sys.modules[name]
        sys.path[:] = path
        os.chdir(folder)


def _folder_of(module: ModuleType | None) -> str | None:
    """In which a module or package of the uppermost level was found."""
    places = getattr(module, "__path__", None) or [getattr(module, "__file__", None)]
    where = next(iter(places), None)
    return None if where is None else os.path.dirname(os.path.abspath(where))


def source(task: str) -> str:
    """The text of the file that a task is in; empty, if it is in none."""
    where, _ = split(task)
    if not _is_path(where):
        path = sys.path[:]
        sys.path.insert(0, os.getcwd())
        try:
            found = importlib.util.find_spec(where)
        finally:
            sys.path[:] = path
        where = (found.origin if found is not None else None) or ""
    return Path(where).read_text(encoding="utf-8") if Path(where).is_file() else ""


def call(module: ModuleType, task: str) -> Any:
    """What the function of a task returns that is in a module; see :func:`make`."""
    where, function = split(task)
    found = getattr(module, function, None)
    if not callable(found):
        own = [name for name, value in vars(module).items() if _is_own(value, module)]
        there = f"; its functions are {', '.join(own)}" if own else ""
        raise InvalidArgument(f'train: {where} has no function "{function}"{there}')
    return _guarded(f"{function}() of {where} failed", found)


def describe(error: BaseException) -> str:
    """An exception of the user's code, with the lines that led to it."""
    begin = error.__traceback__
    while begin is not None and _is_ours(begin):
        begin = begin.tb_next
    return "".join(traceback.format_exception(type(error), error, begin)).rstrip()


def _guarded(what: str, attempt: Callable[[], Any]) -> Any:
    try:
        return attempt()
    except Error:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidArgument(f"train: {what}:\n{describe(error)}") from error


def _is_path(where: str) -> bool:
    return where.endswith(".py") or os.sep in where


def _load(where: str) -> ModuleType:
    if not _is_path(where):
        sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                raise  # one that it imports
            raise InvalidArgument(
                f"train: {where} cannot be loaded: there is no module {error.name!r}"
            ) from error
    path = Path(where).resolve()
    sys.path.insert(0, str(path.parent))  # as of a script that is run
    name = path.stem if path.stem not in sys.modules else f"gearshift_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidArgument(f"train: {where} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _is_own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _is_ours(frame: TracebackType) -> bool:
    name = frame.tb_frame.f_code.co_filename
    return name.startswith(_PACKAGE) or name.startswith("<frozen importlib")
