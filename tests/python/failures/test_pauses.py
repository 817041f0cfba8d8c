"""A job that is suspended as a whole (docker pause, a batch system, a debugger) goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest

TIMEOUT = 3.0
STEPS = 600
CASES = {
    "tcp": ("all_reduce", "all_reduce", 0, "tcp"),
    "shm": ("all_reduce", "all_reduce", 0, ""),
    "bsp": ("bsp", "server", 0, "tcp"),
    "dedicated": ("bsp", "server", 1, ""),
}
"""Strategy, its phase, dedicated servers, transports."""


@pytest.mark.slow
def test_no_deadline_passes_while_all_processes_stand_still(jobs, expected_result, clean):
    started = []
    for name, (strategy, phase, servers, transports) in CASES.items():
        job = jobs.start(
            name,
            *("--strategy", strategy, "--step-ms", "5", "--steps", str(STEPS)),
            workers=3,
            servers=servers,
            timeout=TIMEOUT,
            env={"GEARSHIFT_TRANSPORTS": transports},
        )
        job.await_phase(phase, step=3)
        send(job, signal.SIGSTOP)
        started.append(job)
    time.sleep(3 * TIMEOUT)
    for job in started:
        send(job, signal.SIGCONT)
    for job in started:
        assert job.finish() == 0, job.err
        assert job.result() == pytest.approx(expected_result(3, STEPS), rel=1e-9, abs=1e-12)
        clean(job)


def send(job, number):
    """A signal to all of a job's processes but the launcher."""
    for rank in job.ranks:
        os.kill(job.pids[rank], number)
