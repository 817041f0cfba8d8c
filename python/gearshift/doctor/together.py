"""What the processes of a job find out together, and what rank 0 says of it."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import Error
from ..launch import DEFAULT_TIMEOUT
from ..launch.environment import ProcessEnvironment, detect
from ..launch.ranks import name_ranks
from . import alone, compare, judge, pace, reach, speed, trial, versions
from .finding import Finding, ok, problem
from .meeting import Meeting, MeetingError, Roll
from .naming import without_zone
from .pace import Pace
from .process import Process, labels
from .speed import Link

_SIZES = (1 << 10, 1 << 18, 1 << 22)
"""Elements of the all-reduces: 4 KiB, 1 MiB, 16 MiB."""
_REPEATS = 5


@dataclass
class Report:
    """What a process has to say; rank 0 has it all."""

    findings: list[Finding] = field(default_factory=list)
    world: int = 1
    seconds: float = 0.0
    processes: list[Process] = field(default_factory=list)
    paces: dict[int, Pace] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    transports: dict[str, int] = field(default_factory=dict)
    """How many pairs of processes talk over each."""
    all_reduces: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "world": self.world,
            "seconds": self.seconds,
            "processes": [process.to_json() for process in self.processes],
            "paces": {str(rank): p.to_json() for rank, p in self.paces.items()},
            "links": [link.to_json() for link in self.links],
            "transports": self.transports,
            "all_reduces": self.all_reduces,
        }

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Report:
        return Report(
            findings=[Finding(**finding) for finding in told["findings"]],
            world=told["world"],
            seconds=told["seconds"],
            processes=[Process.from_json(process) for process in told["processes"]],
            paces={int(rank): Pace(**p) for rank, p in told["paces"].items()},
            links=[Link(**link) for link in told["links"]],
            transports=dict(told["transports"]),
            all_reduces=list(told["all_reduces"]),
        )


def place_in_job() -> ProcessEnvironment:
    """Who this process is, with a rendezvous.

    Raises:
        LaunchError, InvalidArgument: when its variables do not say.
    """
    found = detect()
    if found.needs_torch_store and found.rdzv is None:
        torchrun = importlib.import_module("gearshift.torch._torchrun")
        found = replace(found, rdzv=torchrun.exchange_address(found))
    return found


def examine(environment: ProcessEnvironment) -> Report:
    """This process's part; rank 0's report tells of all of them. Collective over the job."""
    began = time.monotonic()
    report = Report(world=environment.world_size)
    installed = versions.Versions.collect()
    if installed.core is None:
        report.findings = versions.check(installed)
        return report
    try:
        _Examination(environment, report).run()
    except MeetingError as error:
        report.findings.append(error.finding)
    except Error as error:
        report.findings.append(_lost(error))
    report.seconds = time.monotonic() - began
    return report


def _lost(error: Error) -> Finding:
    return problem(
        "session",
        str(error),
        "a job would have ended like this, too",
        "docs/failures.md says what each kind of failure means; `gearshift doctor` alone on the "
        "host of the rank that is named tells more",
    )


class _Examination:
    """The steps, in order; each is collective, and ends all if it finds that a job cannot run."""

    def __init__(self, environment: ProcessEnvironment, report: Report) -> None:
        self._environment = environment
        self._report = report
        self._patience = environment.timeout or DEFAULT_TIMEOUT
        self._is_first = environment.rank == 0

    def run(self) -> None:
        e = self._environment
        local = self._examine_host() if e.local_rank == 0 else []
        self._report.findings += [finding for finding in local if finding.level != "ok"]
        meeting = Meeting(e, self._patience)
        address = e.interface or meeting.own_address
        with contextlib.ExitStack() as stack:
            port = None
            if e.local_rank == 0 and e.nnodes > 1:
                port = self._listen(address, stack)
            roll = meeting.introduce(Process.here(e, address, port, local).to_json())
            if not self._call(meeting, roll):
                return
            if e.nnodes > 1 and not self._reach(meeting, address):
                return
        self._measure(meeting)

    def _examine_host(self) -> list[Finding]:
        e = self._environment
        place = alone.Place(e.local_world_size, e.world_size, e.nnodes, e.rdzv)
        return list(alone.examine(place))

    def _listen(self, address: str, stack: contextlib.ExitStack) -> int | None:
        try:
            listener = reach.Listener(address)
        except OSError:  # the choice of the address says so, in the findings of this host
            return None
        stack.callback(listener.close)
        return listener.endpoint[1]

    def _call(self, meeting: Meeting, roll: Roll) -> bool:
        """Whether all have come, and go together; each process says who has not."""
        if self._is_first:
            self._report.processes = [Process.from_json(told) for told in roll.told.values()]
            self._report.processes.sort(key=lambda process: process.rank)
            found = absence(roll, self._report.processes, self._environment)
            if not found:
                found = compare.compare(self._report.processes)
            self._report.findings = [*compare.of_hosts(self._report.processes), *found]
            verdict = [f.to_json() for f in self._report.findings if f.level == "problem"]
            meeting.hear("roll", verdict)
            return not verdict
        told = [Finding(**finding) for finding in meeting.hear("roll")]
        if told:
            self._report.findings = told
        return not told

    def _reach(self, meeting: Meeting, own: str) -> bool:
        """Whether the hosts reach each other."""
        ends = {
            process.rank: [without_zone(process.address), process.port]
            for process in self._report.processes
            if process.port is not None
        }
        ends = {int(rank): end for rank, end in meeting.hear("ends", ends).items()}
        rank = self._environment.rank
        others = {other: end for other, end in ends.items() if other != rank}
        roll = meeting.tell("reach", reach.probe(others, own) if rank in ends else {})
        problems: list[Any] = []
        if self._is_first:
            names = labels(self._report.processes)
            reaches = [
                reach.Reach(source, int(target), error)
                for source, errors in roll.told.items()
                for target, error in errors.items()
            ]
            found = reach.judge(reaches, {rank: names[rank] for rank in ends}, ends)
            self._report.findings += found
            problems = [f.to_json() for f in found if f.level == "problem"]
        told = [Finding(**finding) for finding in meeting.hear("reached", problems)]
        if not self._is_first:
            self._report.findings += told
        return not told

    def _measure(self, meeting: Meeting) -> None:
        """A session of all processes, none of them a dedicated server."""
        session = importlib.import_module("gearshift._session")
        e = self._environment
        session.init(timeout=self._patience, rdzv=e.rdzv, token=e.token, servers=0)
        try:
            self._measure_in(session, meeting)
        except (Error, MeetingError) as error:
            session.fail(str(error))
            raise
        finally:
            session.shutdown()

    def _measure_in(self, session: Any, meeting: Meeting) -> None:
        links = session.current().links()
        all_reduces = self._all_reduces(session.current())
        session.current().barrier()
        own = pace.measure()
        found = speed.measure(self._environment.rank, links)
        told = {
            "pace": own.to_json(),
            "transports": [link[0] for link in links[self._environment.rank + 1 :]],
            "links": [link.to_json() for link in found],
        }
        roll = meeting.tell("measured", told)
        if self._is_first:
            self._sum_up(roll, all_reduces, bool(session.current().links_measured))
        else:
            self._report.findings.append(ok("report", "rank 0 has the whole of it"))
        session.current().barrier()

    def _all_reduces(self, session: Any) -> list[dict[str, Any]]:
        found = []
        for elements in _SIZES:
            try:
                seconds = trial.time_all_reduce(elements, _REPEATS)
            except ArithmeticError as error:
                raise Error(f"a result is wrong: {error}") from error
            found.append(
                {
                    "bytes": 4 * elements,
                    "seconds": seconds,
                    "how": session.explain_all_reduce(4 * elements),
                }
            )
        return found

    def _sum_up(self, roll: Roll, all_reduces: list[dict[str, Any]], measured: bool) -> None:
        report = self._report
        report.all_reduces = all_reduces
        for rank, told in sorted(roll.told.items()):
            report.paces[rank] = Pace(**told["pace"])
            report.links += [Link(**link) for link in told["links"]]
            for transport in told["transports"]:
                report.transports[transport] = report.transports.get(transport, 0) + 1
        names = labels(report.processes)
        report.findings += judge.judge_links(report.links, names, measured)
        report.findings += judge.judge_paces(report.paces, names)
        report.findings.append(
            ok(
                "session",
                f"{report.world} processes formed one; all-reduces of "
                f"{len(all_reduces)} sizes were right on all of them",
            )
        )


def absence(
    roll: Roll, processes: Sequence[Process], environment: ProcessEnvironment
) -> list[Finding]:
    """Who has not come, and who has."""
    if not roll.missing:
        return []
    names = labels(processes)
    came: dict[str, list[int]] = {}
    for process in processes:
        came.setdefault(names[process.rank], []).append(process.rank)
    here = "; ".join(f"{name_ranks(ranks)} on {name}" for name, ranks in came.items())
    found = f"{name_ranks(roll.missing)} of {environment.world_size} did not come" + (
        f" to {environment.rdzv}" if environment.rdzv else ""
    )
    nodes = _nodes(roll.missing, environment)
    if nodes:
        found += f" ({nodes})"
    found += f"; there: {here}"
    if roll.lost:
        lost, _, why = roll.lost.partition(" ")
        return [
            problem(
                "processes",
                f"{found}; rank {lost} has ended: {why}",
                "a job waits for all of its processes",
                "see what that rank printed above",
            )
        ]
    return [
        problem(
            "processes",
            found,
            "a job waits for all of its processes, ten timeouts long",
            "start them, with the same --rdzv, --nnodes and -n and their own --node-rank; what was "
            "started there says itself if it cannot get here",
        )
    ]


def _nodes(missing: Sequence[int], environment: ProcessEnvironment) -> str:
    """Which nodes the missing ranks are all of, where each has as many as this one."""
    local = environment.local_world_size
    if environment.nnodes < 2 or local * environment.nnodes != environment.world_size:
        return ""
    nodes = sorted({rank // local for rank in missing})
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}"
