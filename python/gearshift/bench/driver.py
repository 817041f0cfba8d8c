"""Runs the cases: all sides of a setting in turn, round by round."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.launch import LaunchError
from gearshift.report.files import write_json

from . import machine, place
from .across_hosts import PING
from .case import OURS, Point, Setting
from .display import Display
from .hosts import Hosts, NamespaceError, hosts
from .interrupts import exit_code
from .results import FORMAT, Measured, case_result
from .side import Places, RunningSide, SideError

SUMMARY = "summary.json"
PLOT = "times.png"


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    rounds: int
    """Turns of each side, when a round does not take too long."""
    least_rounds: int
    turn_seconds: float
    """Timed in one turn."""
    point_seconds: float
    """After which no round is begun, once there are the least."""


THOROUGH = Effort(rounds=21, least_rounds=5, turn_seconds=0.2, point_seconds=20.0)
QUICK = Effort(rounds=7, least_rounds=3, turn_seconds=0.04, point_seconds=3.0)

_BATCHES = 5
_PROBE_SECONDS = 0.005


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and how."""

    out: Path
    quick: bool = False

    @property
    def effort(self) -> Effort:
        """The effort that is meant."""
        return QUICK if self.quick else THOROUGH


class Bench:
    """One run of the benchmarks."""

    def __init__(self, options: BenchOptions, display: Display) -> None:
        self._options = options
        self._display = display
        self._results: list[dict[str, Any]] = []
        self._summary: dict[str, Any] = {}
        self._began = 0.0

    def run(self, settings: Sequence[Setting]) -> dict[str, Any]:
        """Measure everything, and write summary.json after each case.

        Ctrl-C ends it early: the summary has what was measured, and in ``interrupted`` why no more.

        Returns:
            The summary; in ``unwritten`` why it is not in its file, should the disk be full.

        Raises:
            LaunchError: when nothing of ours can run.
        """
        _check_ours(settings)
        self._options.out.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self._summary = {
            "format": FORMAT,
            "quick": self._options.quick,
            "machine": machine.describe(),
            "seconds": 0.0,
            "cases": self._results,
        }
        cases = [case for setting in settings for case in setting.cases()]
        self._display.begin(cases)
        try:
            for setting in settings:
                self._measure_setting(setting)
        except KeyboardInterrupt as interrupt:
            self._summary["interrupted"] = {
                "code": exit_code(interrupt),
                "measured": len(self._results),
                "of": len(cases),
            }
            if self._results:
                self._write()
        return self._summary

    def _measure_setting(self, setting: Setting) -> None:
        reason = _obstacle(setting)
        if reason is not None:
            self._skip(setting, reason)
            return
        folder = self._options.out / "logs" / setting.name.replace("/", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with self.running(setting, folder) as running:
                for point in setting.points:
                    self._measure_point(running, point)
        except NamespaceError as error:
            self._skip(setting, str(error))

    @contextlib.contextmanager
    def running(self, setting: Setting, folder: Path) -> Iterator[RunningSetting]:
        """The processes of all sides that can run here.

        Raises:
            NamespaceError: when the setting needs hosts, and they cannot be made.
        """
        with contextlib.ExitStack() as stack:
            made = None
            if setting.network is not None:
                network = setting.network
                self._display.note(f"{setting.title}: making {network.hosts} hosts")
                made = stack.enter_context(
                    hosts(
                        network.hosts,
                        network.mbit,
                        sites=network.sites,
                        uplink_mbit=network.uplink_mbit,
                    )
                )
            running = RunningSetting(setting, Places(setting.ranks, setting.network, made), made)
            if made is not None:
                running.half_round_trip = self._ping(running, folder)
            for number, side in enumerate(setting.sides):
                reason = place.obstacle(side)
                if reason is not None:
                    running.skipped[side.name] = reason
                    continue
                self._display.note(f"{setting.title}: starting {side.name}")
                process = stack.enter_context(RunningSide(side, running.places, folder, number))
                try:
                    process.start()
                except SideError as error:
                    running.skipped[side.name] = f"did not start: {error}"
                    continue
                running.sides[side.name] = process
            yield running

    def _ping(self, running: RunningSetting, folder: Path) -> float | None:
        """Half a round trip of a small message between two hosts."""
        if place.obstacle(PING) is not None:
            return None
        count = len(running.setting.sides)
        with RunningSide(
            PING, Places(2, running.setting.network, running.hosts), folder, count
        ) as p:
            try:
                p.start()
                return p.turn({"bytes": 1, "operations": 500, "batches": 5}).seconds / 2
            except SideError as error:
                running.skipped[PING.name] = str(error)
                return None

    def _measure_point(self, running: RunningSetting, point: Point) -> None:
        case = f"{running.setting.name}/{point.name}"
        self._display.start(case)
        measured = Measured(skipped=running.skipped, half_round_trip=running.half_round_trip)
        orders = {}
        for name in list(running.sides):
            order = running.guarded(name, lambda side: self._calibrate(side, point))
            if order is not None:
                orders[name] = order
        effort = self._options.effort
        wanted = point.rounds or effort.rounds
        least = min(wanted, effort.least_rounds)
        began = time.monotonic()
        for number in range(wanted):
            if number >= least and time.monotonic() - began > effort.point_seconds:
                break
            measured.rounds.append(running.round(orders, number, measured))
            self._display.progress(number + 1, wanted)
        self._add(running.setting, point, measured)

    def _calibrate(self, side: RunningSide, point: Point) -> Mapping[str, int | str]:
        """The order for a side, so that a turn takes the time that it should."""
        if not point.calibrated or not side.side.gated:
            return point.order
        operations, seconds = 1, 0.0
        while True:
            probe = {**point.order, "operations": operations, "batches": 1}
            seconds = side.turn(probe).seconds
            if seconds * operations >= _PROBE_SECONDS or operations >= 10_000:
                break
            operations = min(10_000, max(2, math.ceil(2 * _PROBE_SECONDS / max(seconds, 1e-7))))
        budget = self._options.effort.turn_seconds
        per_batch = budget / _BATCHES / max(seconds, 1e-7)
        batches = _BATCHES if per_batch >= 1 else max(1, int(budget / seconds))
        return {**point.order, "operations": max(1, int(per_batch)), "batches": batches}

    def _skip(self, setting: Setting, reason: str) -> None:
        """Those of its cases that have not been measured."""
        known = {result["case"] for result in self._results}
        for case, point in zip(setting.cases(), setting.points, strict=True):
            if case not in known:
                self._add(setting, point, Measured(skipped={OURS: reason}))

    def _add(self, setting: Setting, point: Point, measured: Measured) -> None:
        result = case_result(setting, point, measured)
        self._results.append(result)
        self._write()
        self._display.end(result)

    def _write(self) -> None:
        """A full disk does not end the measuring; what is missing there is shown all the same."""
        self._summary["seconds"] = time.monotonic() - self._began
        self._summary.pop("unwritten", None)
        try:
            if len(self._results) == 1:  # the picture is that of an earlier run
                (self._options.out / PLOT).unlink(missing_ok=True)
            write_json(self._options.out / SUMMARY, self._summary, indent=1)
        except OSError as error:
            self._summary["unwritten"] = error.strerror or str(error)


class RunningSetting:
    """The sides of a setting that are running."""

    def __init__(self, setting: Setting, places: Places, made: Hosts | None) -> None:
        self.setting = setting
        self.places = places
        self.hosts = made
        self.sides: dict[str, RunningSide] = {}
        self.skipped: dict[str, str] = {}
        self.half_round_trip: float | None = None

    def guarded(self, name: str, action: Any) -> Any:
        """What `action` returns for a side; a side that fails is out from then on."""
        try:
            return action(self.sides[name])
        except (SideError, OSError) as error:
            self.skipped[name] = f"failed: {error}"
            self.sides.pop(name).end()
            return None

    def round(self, orders: Mapping[str, Any], number: int, measured: Measured) -> dict[str, Any]:
        """One turn of each side. Who is first changes, so that it helps or harms nobody."""
        names = [name for name in orders if name in self.sides]
        turns = {}
        for name in names[number % len(names) :] + names[: number % len(names)] if names else []:
            before = (0, 0) if self.hosts is None else self._traffic(self.hosts)
            turn = self.guarded(name, lambda side, name=name: side.turn(orders[name]))
            if turn is None:
                continue
            turns[name] = turn
            if self.hosts is not None and turn.operations:
                after = self._traffic(self.hosts)
                for kept, total, earlier in zip(
                    (measured.sent_bytes, measured.uplink_bytes), after, before, strict=True
                ):
                    kept.setdefault(name, []).append((total - earlier) / turn.operations)
        return turns

    @staticmethod
    def _traffic(made: Hosts) -> tuple[int, int]:
        """Bytes so far, between hosts and between sites."""
        return made.sent_bytes(), made.uplink_bytes()


def _obstacle(setting: Setting) -> str | None:
    """Why our side of a setting cannot run here."""
    reasons = (place.obstacle(side) for side in setting.sides if side.name == OURS)
    return next((reason for reason in reasons if reason), None)


def _check_ours(settings: Sequence[Setting]) -> None:
    reasons = [_obstacle(setting) for setting in settings]
    if reasons and all(reasons):
        raise LaunchError(str(reasons[0]))
