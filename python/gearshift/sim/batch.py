"""Several simulations of one cluster and workload, as many at once as there are cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Error
from ..strategy import parse
from .display import Display, Silent
from .inputs import Source, WorkloadFacts
from .messages import AfterFailure, Fidelity, Request
from .processes import Pool
from .result import Result, make_result
from .simulation import check, make_request


@dataclass(frozen=True)
class Settings:
    """What all of them have in common."""

    steps: int = 20
    warmup: int = 2
    seed: int = 1
    optimizer: str = "sgd"
    timeline: bool = False
    train: str | None = None
    """The task to learn; None: values do not matter."""
    evaluate_every: int = 100
    after_failure: AfterFailure = field(default_factory=AfterFailure)
    fidelity: Fidelity = field(default_factory=Fidelity)


@dataclass(frozen=True)
class Job:
    """One of them."""

    cluster: Source
    workload: Source
    strategy: str
    seed: int | None = None
    """None: that of the settings."""


class Batch:
    """Runs them."""

    def __init__(
        self, settings: Settings, pool: Pool | None = None, display: Display | None = None
    ) -> None:
        check(
            settings.steps,
            settings.warmup,
            settings.seed,
            settings.train,
            settings.evaluate_every,
        )
        self.settings = settings
        self._pool = pool or Pool()
        self._display = display or Silent()
        self.interrupted = False
        """Whether Ctrl-C has ended a run of which a part is kept."""

    def run(
        self, jobs: Sequence[Job], what: str = "simulating", keep: bool = False
    ) -> list[Result | Error]:
        """The result of each, or what it failed with.

        A training that ends early, for a host fails, is a result if steps were measured. With
        `keep`, Ctrl-C is what those fail with that are not done, unless none is.
        """
        s = self.settings
        requests = [
            make_request(
                job.cluster,
                job.workload,
                parse(job.strategy),
                s.steps,
                s.seed if job.seed is None else job.seed,
                s.optimizer,
                s.timeline,
                s.train,
                s.evaluate_every,
                s.after_failure,
                s.fidelity,
            )
            for job in jobs
        ]
        results: list[Result | Error] = [Error("interrupted before it was done")] * len(jobs)
        self._display.begin(what, len(jobs) * s.steps)

        def done(number: int, raw: dict[str, Any] | Error) -> None:
            if isinstance(raw, Error):
                results[number] = raw
            else:
                results[number] = self._result(jobs[number], raw, requests[number])

        try:
            self._pool.run_all(requests, done, self._display.advance)
        except KeyboardInterrupt:
            if not keep or not any(isinstance(result, Result) for result in results):
                raise
            self.interrupted = True
        return results

    def _result(self, job: Job, raw: dict[str, Any], request: Request) -> Result | Error:
        names = job.cluster.title, job.workload.title
        facts = WorkloadFacts.of(job.workload)
        try:
            return make_result(raw, request, names, facts, self.settings.warmup)
        except Error as error:
            return error
