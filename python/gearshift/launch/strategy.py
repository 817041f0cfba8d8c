"""The strategy that a job is started with, for scripts that leave the choice to whoever does."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import InvalidArgument
from ..strategy import ParameterServer, Strategy, StrategySwitch, parse
from . import LaunchError

STRATEGY = "GEARSHIFT_STRATEGY"
TOTAL_STEPS = "GEARSHIFT_TOTAL_STEPS"


def asked_strategy(environ: Mapping[str, str] | None = None) -> Strategy | None:
    """What `gearshift run --strategy`, a job file or GEARSHIFT_STRATEGY ask for.

    Raises:
        InvalidArgument: when that is no strategy.
    """
    text = (os.environ if environ is None else environ).get(STRATEGY)
    if not text:
        return None
    try:
        return parse(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{STRATEGY}: {error}") from error


def asked_total_steps(environ: Mapping[str, str] | None = None) -> int | None:
    """The optimizer steps that the job is said to make, by GEARSHIFT_TOTAL_STEPS.

    Raises:
        InvalidArgument: when that is no number of steps.
    """
    text = (os.environ if environ is None else environ).get(TOTAL_STEPS)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise InvalidArgument(f"{TOTAL_STEPS}={text!r} is not a whole number from 1 on")
    return int(text)


def check_strategy(text: str, servers: int) -> None:
    """Refuse what no process of the job could use.

    Raises:
        LaunchError: when it is no strategy, or wants other dedicated servers than the job has.
    """
    try:
        strategy = parse(text)
    except InvalidArgument as error:
        raise LaunchError(str(error)) from error
    both = (strategy.start, strategy.then) if isinstance(strategy, StrategySwitch) else (strategy,)
    for phase in both:
        wanted = phase.servers if isinstance(phase, ParameterServer) else None
        if wanted is not None and wanted != servers:
            raise LaunchError(
                f"{text!r} wants {wanted} dedicated servers, and the job has {servers}: say how "
                "many in one place, or the same in both"
            )
