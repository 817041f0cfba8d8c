"""Which versions are installed, and whether they go together."""

from __future__ import annotations

import importlib
import platform
import re
from dataclasses import dataclass
from importlib import metadata

from .finding import Finding, ok, problem, warning

LEAST_TORCH = (2, 6)
"""As pyproject.toml says of the extra "torch"."""
_UNKNOWN = "0+unknown"


@dataclass(frozen=True)
class Versions:
    """Of what a training process is made of; None: not there."""

    gearshift: str
    core: str | None
    """Of the compiled library."""
    protocol: int | None
    """Of what processes say to each other; equal in all processes of a job."""
    python: str
    torch: str | None
    numpy: str | None
    kernel: str
    core_error: str = ""
    """Why the compiled library cannot be loaded."""

    @staticmethod
    def collect() -> Versions:
        core, protocol, error = None, None, ""
        try:
            library = importlib.import_module("gearshift._core")
            core, protocol = str(library.version), int(library.protocol)
        except (ImportError, AttributeError) as reason:
            error = str(reason)
        return Versions(
            gearshift=_installed("gearshift") or _UNKNOWN,
            core=core,
            protocol=protocol,
            python=platform.python_version(),
            torch=_installed("torch"),
            numpy=_installed("numpy"),
            kernel=platform.release(),
            core_error=error,
        )


def check(versions: Versions) -> list[Finding]:
    return [_check_core(versions), _check_torch(versions)]


def _check_core(v: Versions) -> Finding:
    topic = "versions"
    system = f"Python {v.python}, NumPy {v.numpy or 'missing'}, Linux {v.kernel}"
    if v.core is None:
        return problem(
            topic,
            f"gearshift {v.gearshift}, whose compiled library does not load: {v.core_error}",
            "every process of a job needs it",
            "install gearshift for this interpreter (`pip install .` in a checkout, or `make "
            "build`); where a .so is named, install the Debian package that has it",
        )
    if v.gearshift not in (_UNKNOWN, v.core):
        return problem(
            topic,
            f"gearshift {v.gearshift} with a compiled library of version {v.core}",
            "one calls functions that the other does not have, or has otherwise",
            "build and install both from the same sources (`make build`, `pip install .`)",
        )
    return ok(topic, f"gearshift {v.gearshift} (library {v.core}), {system}")


def _check_torch(v: Versions) -> Finding:
    least = ".".join(map(str, LEAST_TORCH))
    if v.torch is None:
        return warning(
            "torch",
            "not installed for this interpreter",
            "gearshift.torch needs it; collectives on NumPy arrays and simulations do not",
            "pip install 'gearshift[torch]', if a script imports gearshift.torch",
        )
    if _numbers(v.torch) < LEAST_TORCH:
        return problem(
            "torch",
            f"{v.torch}; gearshift.torch supports {least} and newer",
            "it hooks into what autograd has since then",
            f"pip install 'torch>={least}'",
        )
    return ok("torch", f"{v.torch} (supported: {least} and newer)")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
